"""A database that dies under its workers."""

from dataclasses import replace
from pathlib import Path

import pytest

from jobs.database import Database
from jobs.states import State
from migrations.__main__ import upgrade
from tests.fault.worker.support import House, eventually, pids, worker_process
from tests.servers import Postgres, Servers

pytestmark = pytest.mark.column("production")


@pytest.fixture
def server(own_servers: Servers) -> Postgres:
    return own_servers.postgres


@pytest.fixture
def house(house: House, server: Postgres) -> House:
    """Its lease outlasts the outage."""
    url = server.url("postgres")
    upgrade(url)
    settings = house.settings.model_copy(update={"database_url": url, "lease_ttl_s": 30.0})
    return replace(house, settings=settings, database=Database(url))


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_running_job_survives_a_restart(
    house: House, server: Postgres, tmp_path: Path, how: str
) -> None:
    pid_file = tmp_path / "pids"
    with worker_process(house.settings) as process:
        job = house.accept("wait", bad_attempts=1, pid_file=str(pid_file))
        eventually(lambda: house.get(job).phase == "quantizing", "work")
        getattr(server, how)()
        server.start()
        assert house.get(job).state == State.RUNNING
        house.cancel(job)
        house.wait(job, State.CANCELLED)
        house.wait(house.accept(), State.SUCCEEDED)
        assert process.poll() is None
    assert len(pids(pid_file)) == 1
    house.database.dispose()


def test_a_worker_that_starts_before_its_database(house: House, server: Postgres) -> None:
    job = house.accept()
    server.stop()
    with worker_process(house.settings):
        server.start()
        house.wait(job, State.SUCCEEDED)
    house.database.dispose()
