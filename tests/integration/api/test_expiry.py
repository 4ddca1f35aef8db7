"""Where no worker is, the API itself ends jobs that waited too long."""

import sqlite3
import threading
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

import jobs.database
from api import expiry
from api.app import create_app
from jobs.database import Database
from jobs.settings import Settings
from tests.integration.api.support import Service, place_model

SOON_S = 30.0


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"sweep_interval_s": 0.05})


def ended(http: TestClient, job: dict[str, Any]) -> dict[str, Any]:
    deadline = time.monotonic() + SOON_S
    while (now := http.get(job["urls"]["self"]).json())["finished_at"] is None:
        assert time.monotonic() < deadline, "it waits for ever"
        time.sleep(0.05)
    return dict(now)


def test_it_fails_without_any_worker(service: Service) -> None:
    held = service.submit()
    service.claim()
    patient = service.submit(max_pending_s=3600)
    job = ended(service.http, service.submit(max_pending_s=1))
    assert (job["state"], job["attempt"]) == ("failed", 0)
    assert job["error"]["code"] == "max_pending_exceeded"
    for other, state in ((held, "running"), (patient, "queued")):
        assert service.http.get(other["urls"]["self"]).json()["state"] == state


def test_many_processes_end_it_once(
    settings: Settings, database: Database, tiny_model: Path
) -> None:
    place_model(settings.models_dir, tiny_model, "tiny")
    with ExitStack() as stack:
        clients = [
            stack.enter_context(TestClient(create_app(settings), base_url="http://localhost"))
            for _ in range(3)
        ]
        body = {"model": "tiny", "bits": 2, "max_pending_s": 1}
        made = [client.post("/jobs", json=body).json() for client in clients for _ in range(5)]
        for job in made:
            assert ended(clients[0], job)["state"] == "failed"
            events = clients[0].get(job["urls"]["events"]).json()["events"]
            assert [event["type"] for event in events] == ["accepted", "failed"]


@pytest.mark.column("embedded")
def test_it_outlives_a_database_that_is_locked(
    settings: Settings, database: Database, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.database, "LOCK_TIMEOUT_MS", 10)
    broken = when_a_round_breaks(monkeypatch)
    place_model(settings.models_dir, tiny_model, "tiny")
    with (
        TestClient(create_app(settings), base_url="http://localhost") as http,
        closing(sqlite3.connect(settings.data_dir / "apiq.db")) as other,
    ):
        job = http.post("/jobs", json={"model": "tiny", "bits": 2, "max_pending_s": 1}).json()
        other.execute("BEGIN IMMEDIATE")
        assert broken.wait(SOON_S)
        other.rollback()
        assert ended(http, job)["state"] == "failed"


def when_a_round_breaks(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set once a round broke."""
    broken = threading.Event()
    monkeypatch.setattr(expiry.log, "exception", lambda _: broken.set(), raising=False)
    return broken
