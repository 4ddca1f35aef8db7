"""Ringing on a real Redis: best effort, and never slow."""

import time
from pathlib import Path

import pytest

from jobs import doorbell, repository
from jobs.database import Database
from jobs.job import Job
from jobs.schema import metadata
from jobs.settings import Settings
from tests.servers import Redis, Servers

QUEUE = doorbell.queue_of("any")


@pytest.fixture
def server(own_servers: Servers) -> Redis:
    return own_servers.redis


@pytest.fixture
def settings(tmp_path: Path, server: Redis) -> Settings:
    return Settings(data_dir=tmp_path / "data", broker_url=server.url(0))


def ring(settings: Settings) -> float:
    """How long it took, in seconds."""
    began = time.monotonic()
    doorbell.ring_queue(settings, QUEUE)
    return time.monotonic() - began


def waiting(server: Redis) -> int:
    with server.client() as client:
        return int(client.llen(QUEUE))


def test_a_server_that_is_away_and_comes_back(server: Redis, settings: Settings) -> None:
    ring(settings)
    assert waiting(server) == 1
    server.kill()
    assert max(ring(settings) for _ in range(3)) < doorbell.TIMEOUT_S
    server.start()
    ring(settings)
    assert waiting(server) >= 1


@pytest.mark.parametrize("is_connected", [True, False])
def test_a_server_that_says_nothing(server: Redis, settings: Settings, is_connected: bool) -> None:
    if is_connected:
        ring(settings)
    server.freeze()
    took_s = ring(settings)
    server.thaw()
    assert took_s < 2 * doorbell.TIMEOUT_S + 1  # at most one wait, and a try to connect anew
    ring(settings)
    assert waiting(server) >= 1


def test_a_bell_is_rung_from_a_thread(server: Redis, settings: Settings) -> None:
    bell = doorbell.Bell(settings)
    bell.start()
    bell.ring(a_job())
    bell.stop()  # rings what waits
    assert waiting(server) == 1


def test_nobody_waits_for_a_bell(server: Redis, settings: Settings) -> None:
    job = a_job()
    server.freeze()
    bell = doorbell.Bell(settings)
    bell.start()
    began = time.monotonic()
    for _ in range(2 * doorbell.MAX_WAITING):  # more than are kept
        bell.ring(job)
    assert time.monotonic() - began < doorbell.TIMEOUT_S / 2
    server.thaw()
    bell.stop()


def a_job() -> Job:
    database = Database("sqlite://")
    metadata.create_all(database.engine)
    with database.begin() as connection:
        job = repository.accept(connection, type="quantize", input={})
    database.dispose()
    return job


def test_a_server_that_never_was(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, broker_url="redis://127.0.0.1:9/0")
    assert ring(settings) < doorbell.TIMEOUT_S
