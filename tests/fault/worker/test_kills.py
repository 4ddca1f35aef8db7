"""Whole workers as processes, killed, stopped, drained and made deaf."""

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs import doorbell
from jobs.addresses import FILE_BROKER
from jobs.job import Job
from jobs.states import State
from tests.fault.worker.support import (
    House,
    broker,
    eventually,
    is_alive,
    lose_the_broker,
    pids,
    worker_process,
)


def start(house: House, tmp_path: Path, how: str = "wait", **todo: Any) -> Job:
    """A job whose first attempt lasts until something happens to it."""
    return house.accept(how, bad_attempts=1, pid_file=str(tmp_path / "pids"), **todo)


def in_the_middle(house: House, job: Job) -> Job:
    eventually(lambda: house.get(job).phase == "quantizing", "work")
    return house.get(job)


def ends_once(house: House, tmp_path: Path, job: Job, attempt: int) -> Job:
    """The job succeeds by that attempt, with one set of files, and nothing is left over."""
    job = house.wait(job, State.SUCCEEDED)
    assert job.attempt == attempt
    eventually(lambda: len(house.stored_files()) == len(house.artifacts(job)))
    house.check_published_by(job, attempt)
    eventually(house.no_scratch_left, "an empty scratch")
    eventually(lambda: not any(is_alive(pid) for pid in pids(tmp_path / "pids")), "no orphan")
    return job


def test_the_child_is_killed(house: House, tmp_path: Path) -> None:
    job = start(house, tmp_path)
    with worker_process(house.settings):
        in_the_middle(house, job)
        psutil.Process(pids(tmp_path / "pids")[0]).kill()
        job = ends_once(house, tmp_path, job, attempt=2)
    assert job.infra_losses == 1
    assert len(pids(tmp_path / "pids")) == 2


@pytest.mark.parametrize("how", ["wait", "deaf"])
def test_the_worker_is_killed(house: House, tmp_path: Path, how: str) -> None:
    job = start(house, tmp_path, how)
    with worker_process(house.settings) as process:
        in_the_middle(house, job)
        (child,) = pids(tmp_path / "pids")
        process.kill()
        process.wait()
        # a child that listens to nobody still notices that its leash is gone
        eventually(lambda: not is_alive(child), "the child's end", within_s=10)
    assert house.get(job).state == State.RUNNING  # until the lease lapses
    with worker_process(house.settings, "second"):
        job = ends_once(house, tmp_path, job, attempt=2)
    lost = [event.data for event in house.events(job) if event.type == "retrying"]
    assert [data["error"]["code"] for data in lost] == ["worker_lost"]


def test_a_worker_that_is_frozen_past_its_lease(house: House, tmp_path: Path) -> None:
    job = start(house, tmp_path)
    with worker_process(house.settings) as frozen:
        in_the_middle(house, job)
        frozen.send_signal(signal.SIGSTOP)
        with worker_process(house.settings, "second"):
            job = house.wait(job, State.SUCCEEDED)
            history = house.events(job)
            frozen.send_signal(signal.SIGCONT)  # it believes that the job is still its own
            job = ends_once(house, tmp_path, job, attempt=2)
        assert house.events(job) == history
        again = house.accept()  # and it is of use again
        assert house.wait(again, State.SUCCEEDED).attempt == 1


def test_sigterm_gives_the_job_back(house: House, tmp_path: Path) -> None:
    job = start(house, tmp_path)
    with worker_process(house.settings) as process:
        in_the_middle(house, job)
        process.terminate()
        assert process.wait(20) == 0
    job = house.get(job)
    assert (job.state, job.infra_losses) == (State.QUEUED, 0)
    assert house.event_types(job)[-1] == "requeued"
    assert house.no_scratch_left()
    with worker_process(house.settings, "second"):
        job = ends_once(house, tmp_path, job, attempt=2)
    assert job.infra_losses == 0


def test_sigterm_right_after_the_start(house: House, tmp_path: Path) -> None:
    """The first job may begin before the consumer has come to its broker."""
    job = start(house, tmp_path)
    with worker_process(house.settings) as process:
        house.wait(job, State.RUNNING)
        process.terminate()
        assert process.wait(20) == 0
    assert (house.get(job).state, house.get(job).infra_losses) == (State.QUEUED, 0)


def test_sigterm_to_the_whole_process_group(house: House, tmp_path: Path) -> None:
    """As a terminal or a service manager does: the child must leave it to its supervisor."""
    job = start(house, tmp_path)
    with worker_process(house.settings) as process:
        in_the_middle(house, job)
        for member in (pids(tmp_path / "pids")[0], process.pid):
            psutil.Process(member).terminate()
        assert process.wait(20) == 0
    assert (house.get(job).state, house.get(job).infra_losses) == (State.QUEUED, 0)


def test_an_idle_worker_ends_at_once(house: House) -> None:
    with worker_process(house.settings) as process:
        house.wait(house.accept(), State.SUCCEEDED)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


def lose_the_message(house: House) -> None:
    return None  # it was never sent


def unread_messages(house: House, queue: str = "apiq-any") -> int:
    if house.settings.broker_url == FILE_BROKER:
        return len(list((house.settings.broker_dir / "queue").glob(f"*.{queue}.msg")))
    with broker(house) as client:
        return client.llen(queue) + client.hlen("unacked")


def test_rings_that_nobody_reads_do_not_pile_up(house: House) -> None:
    """As of a device class that no worker has, or while every worker is busy."""
    for queue in ("apiq-any", "apiq-cuda"):
        for _ in range(doorbell.MAX_WAITING + 5):
            doorbell.ring_queue(house.settings, queue)
        assert unread_messages(house, queue) == doorbell.MAX_WAITING


@pytest.mark.parametrize("lose", [lose_the_message, lose_the_broker])
def test_a_lost_doorbell(house: House, lose: Callable[[House], None]) -> None:
    with worker_process(house.settings):
        house.wait(house.accept(), State.SUCCEEDED)  # it is up and idle
        lose(house)
        house.wait(house.accept(ring=False), State.SUCCEEDED)


def test_a_broker_full_of_rubbish(house: House) -> None:
    with worker_process(house.settings) as process:
        house.wait(house.accept(), State.SUCCEEDED)
        rubbish = [b'{"body": "half a mess', b"{}", b"\xff\x00", b"[]", b"null"]
        if house.settings.broker_url == FILE_BROKER:
            queue = house.settings.broker_dir / "queue"
            for number, content in enumerate(rubbish):
                (queue / f"00000000000000{number}_x.apiq-any.msg").write_bytes(content)
            (queue / "000000000000009_x.apiq-any.msg").mkdir()
        else:
            with broker(house) as client:
                client.lpush("apiq-any", *rubbish)
        eventually(lambda: not unread_messages(house) or process.poll() is not None, "all read")
        house.wait(house.accept(), State.SUCCEEDED)
        assert process.poll() is None


def test_a_job_that_waited_before_the_worker_came(house: House) -> None:
    job = house.accept(ring=False)
    with worker_process(house.settings):
        house.wait(job, State.SUCCEEDED)


def test_the_same_message_many_times(house: House, tmp_path: Path) -> None:
    pid_file = tmp_path / "pids"
    jobs = [house.accept(pid_file=str(pid_file)) for _ in range(2)]
    for _ in range(20):
        doorbell.ring(house.settings, jobs[0])
    with worker_process(house.settings), worker_process(house.settings, "second"):
        for job in jobs:
            assert house.wait(job, State.SUCCEEDED).attempt == 1
        eventually(lambda: not unread_messages(house), "every message read")
        processed = house.settings.broker_dir / "processed"
        eventually(lambda: not list(processed.glob("*")), "what was read is pruned")
    assert len(pids(pid_file)) == 2


def test_two_workers_share_the_work(house: House, tmp_path: Path) -> None:
    pid_file = tmp_path / "pids"
    with worker_process(house.settings), worker_process(house.settings, "second"):
        both = [house.accept("wait", pid_file=str(pid_file)) for _ in range(2)]
        for job in both:
            in_the_middle(house, job)
        assert len({house.get(job).worker_id for job in both}) == 2
        for job in both:
            house.cancel(job)
            house.wait(job, State.CANCELLED)
    assert len(pids(pid_file)) == 2


def test_a_crash_loop_leaves_the_worker_alive(house: House) -> None:
    with worker_process(house.settings) as process:
        failed = house.wait(house.accept("segfault"), State.FAILED)
        assert failed.attempt == 3
        house.wait(house.accept(), State.SUCCEEDED)
        assert process.poll() is None


def test_messages_are_not_kept_waiting(house: House) -> None:
    """A ring wakes an idle worker well before a sweep would."""
    slow = house.settings.model_copy(update={"sweep_interval_s": 60.0})
    with worker_process(slow):
        house.wait(house.accept(), State.SUCCEEDED)
        began = time.monotonic()
        house.wait(house.accept(), State.SUCCEEDED)
        assert time.monotonic() - began < 20
