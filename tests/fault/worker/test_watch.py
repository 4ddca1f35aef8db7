"""Jobs that nobody rings for: no ring is sent here at all, and an idle worker finds them."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from jobs import leases, repository
from jobs.job import Job
from jobs.states import State
from tests.fault.worker.support import House, worker_process

ERROR = {"code": "worker_crashed", "message": "it broke", "fault": "infra", "retryable": True}
SOON_S = 10.0  # 0.3 s are due; the machine may be busy

Found = tuple[Job, datetime | None]  # who is to start, and since when it may


def another_has(house: House, *, ttl_s: float = 60.0, lost: bool = False, **fields: Any) -> Job:
    """A job that a worker which is not there took at once, and maybe lost."""
    slow = house.settings.model_copy(update={"retry_backoff_s": 1.0})
    with house.database.begin() as connection:
        repository.accept(connection, type="quantize", input={"how": "finish"}, **fields)
        job = leases.claim(connection, worker_id="x", device_class="cpu", lease_ttl_s=ttl_s)
        assert job is not None
        return leases.lose(connection, job, ERROR, slow) if lost else job


def a_pause_ends(house: House) -> Found:
    job = another_has(house, lost=True)
    assert house.wait(job, State.QUEUED).attempt == 1
    return house.wait(job, State.SUCCEEDED), job.run_after


def a_lease_is_taken_back(house: House) -> Found:
    job = house.wait(another_has(house, ttl_s=1.0), State.SUCCEEDED)
    assert house.event_types(job)[1:4] == ["started", "retrying", "started"]
    return job, job.run_after


def a_quota_frees(house: House) -> Found:
    first = another_has(house, owner="one")
    with house.database.begin() as connection:
        job = repository.accept(connection, type="quantize", input={"how": "finish"}, owner="one")
    house.wait(house.accept(ring=False), State.SUCCEEDED)  # a younger one, of nobody
    assert house.get(job).state == State.QUEUED
    with house.database.begin() as connection:
        ended = leases.fail(connection, first.id, 1, ERROR)
    return house.wait(job, State.SUCCEEDED), ended.finished_at


@pytest.mark.parametrize("happens", [a_pause_ends, a_lease_is_taken_back, a_quota_frees])
def test_an_idle_worker_starts_what_nobody_rings_for(
    house: House, happens: Callable[[House], Found]
) -> None:
    settings = house.settings.model_copy(update={"max_running_jobs_per_owner": 1})
    with worker_process(settings):
        house.wait(house.accept(ring=False), State.SUCCEEDED)  # it is up
        job, may_start = happens(house)
    started = [event.at for event in house.events(job) if event.type == "started"][-1]
    assert may_start is not None
    assert 0 <= (started - may_start).total_seconds() < SOON_S
