"""A broker that dies under its workers."""

from dataclasses import replace

import pytest

from jobs.states import State
from tests.fault.worker.support import House, worker_process
from tests.servers import Redis, Servers

pytestmark = pytest.mark.column("production")


@pytest.fixture
def server(own_servers: Servers) -> Redis:
    return own_servers.redis


@pytest.fixture
def house(house: House, server: Redis) -> House:
    return replace(house, settings=house.settings.model_copy(update={"broker_url": server.url(0)}))


def test_a_worker_survives_the_end_of_its_broker(house: House, server: Redis) -> None:
    with worker_process(house.settings) as process:
        for _ in range(5):  # so that it comes before, between and after the steps of a message
            house.wait(house.accept(), State.SUCCEEDED)
            server.kill()
            waiting = house.accept()  # its ring goes nowhere
            server.start()
            house.wait(waiting, State.SUCCEEDED)
        assert process.poll() is None
        process.terminate()
        assert process.wait(20) == 0


def test_a_worker_that_starts_before_its_broker(house: House, server: Redis) -> None:
    server.stop()
    waiting = house.accept()
    with worker_process(house.settings):
        server.start()
        house.wait(waiting, State.SUCCEEDED)


def test_jobs_start_without_a_broker(house: House, server: Redis) -> None:
    server.stop()
    with worker_process(house.settings) as process:
        for _ in range(2):  # at its start, and while it is idle
            house.wait(house.accept(), State.SUCCEEDED)
        job = house.accept("wait", bad_attempts=1)
        house.wait(job, State.RUNNING)
        process.terminate()
        assert process.wait(20) == 0
    assert (house.get(job).state, house.get(job).infra_losses) == (State.QUEUED, 0)


def test_the_end_of_the_broker_disturbs_no_running_job(house: House, server: Redis) -> None:
    with worker_process(house.settings):
        job = house.accept("wait", bad_attempts=1)
        house.wait(job, State.RUNNING)
        server.kill()
        house.cancel(job)
        house.wait(job, State.CANCELLED)
