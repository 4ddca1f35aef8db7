"""`apiq up` killed with all its parts while a real job runs, and started again."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil

from jobs.database import Database
from jobs.settings import Settings
from tests.fault.campaign.stage import BODY
from tests.fault.history import Expected, Flaw, flaws
from tests.fault.worker.support import eventually, house_of
from tests.integration.api.support import place_model
from tests.integration.client.up_process import Up, processes_of
from tests.tiny_models import make_tiny

NAME = "`apiq up` and all its parts are killed"
POINTS = ("queued", "downloading", "quantizing", "packaging")
DEADLINE_S = 120.0  # the real child loads torch
SETTLE_S = 20.0
LEASE = {"APIQ_LEASE_TTL_S": "4", "APIQ_HEARTBEAT_INTERVAL_S": "1", "APIQ_SWEEP_INTERVAL_S": "0.5"}


def kill_up(point: str) -> list[Flaw]:
    """What is wrong with the history when it was killed at or after that phase of a job."""
    with tempfile.TemporaryDirectory(prefix="apiq-faults-") as name:
        data_dir = Path(name).resolve() / "data"
        place_model(data_dir / "models", make_tiny(Path(name) / "tiny"), "tiny")
        with _up(data_dir) as url:
            job_id = _submit_and_wait(url, point)
        with _up(data_dir):
            return _history(data_dir, job_id)


@contextmanager
def _up(data_dir: Path) -> Iterator[str]:
    """Its URL; at the end not one of its processes has time for anything."""
    up = Up(data_dir, **LEASE)
    try:
        yield up.wait_until_up()
    finally:
        up.process.kill()
        for process in processes_of(data_dir):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        up.ended()
        eventually(lambda: not processes_of(data_dir), "the end of every part")


def _submit_and_wait(url: str, point: str) -> str:
    job_id = str(httpx.post(f"{url}/jobs", json=BODY).raise_for_status().json()["id"])

    def is_there() -> bool:
        job = httpx.get(f"{url}/jobs/{job_id}").json()
        return point in (job["state"], job["phase"]) or job["finished_at"] is not None

    eventually(is_there, point, DEADLINE_S)
    return job_id


def _history(data_dir: Path, job_id: str) -> list[Flaw]:
    settings = Settings(data_dir=data_dir)
    database = Database(settings.database_url)
    house = house_of(settings, database)
    with suppress(AssertionError):
        eventually(lambda: house.get_by_id(job_id).is_terminal, "the end", DEADLINE_S)
    deadline = time.monotonic() + SETTLE_S
    while (found := flaws(house, {job_id: Expected()})) and time.monotonic() < deadline:
        time.sleep(0.2)
    database.dispose()
    return found
