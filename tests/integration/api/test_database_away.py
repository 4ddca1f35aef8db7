"""A database that is away, locked or full in the middle of a request: say so, and come back."""

import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

import jobs.database
from api.app import create_app
from jobs import keys
from jobs.database import Database
from jobs.settings import Settings
from migrations.__main__ import upgrade
from tests.integration.api.support import Service, place_model
from tests.servers import Servers

NO_JOB = "/jobs/job_00000000-0000-0000-0000-000000000000"
JOB = {"model": "tiny", "bits": 2}


@contextmanager
def client_of(settings: Settings, tiny_model: Path) -> Iterator[TestClient]:
    place_model(settings.models_dir, tiny_model, "tiny")
    with TestClient(create_app(settings), base_url="http://localhost") as http:
        yield http


def refused(answer: httpx2.Response, code: str = "database_unavailable") -> dict[str, Any]:
    problem = Service.refused(answer, 503, code)
    assert (problem["fault"], problem["retryable"]) == ("infra", True)
    assert int(answer.headers["retry-after"]) > 0
    return problem


@pytest.mark.column("embedded")
@pytest.mark.parametrize("with_keys", [False, True])
def test_postgresql_stops_and_starts(
    settings: Settings, own_servers: Servers, tiny_model: Path, with_keys: bool
) -> None:
    server = own_servers.postgres
    upgrade(server.url("postgres"))
    settings = settings.model_copy(
        update={
            "database_url": server.url("postgres"),
            "secret_key": SecretStr("k" * 32) if with_keys else None,
        }
    )
    with client_of(settings, tiny_model) as http:
        if with_keys:  # to look it up is the first thing that fails
            http.headers["authorization"] = f"Bearer {make_key(settings)}"
        assert http.post("/jobs", json=JOB).status_code == 202
        for end in (server.stop, server.kill):
            end()
            for answer in (
                http.post("/jobs", json=JOB, headers={"idempotency-key": "k"}),
                http.get("/jobs"),
                http.get(NO_JOB),
                http.get(f"{NO_JOB}/events", headers={"accept": "text/event-stream"}),
                http.get("/metrics"),
                http.get("/datasets"),
            ):
                assert str(server.port) not in refused(answer)["detail"]
            assert http.get("/healthz").status_code == 200
            server.start()
            assert http.post("/jobs", json=JOB).status_code == 202


def make_key(settings: Settings) -> str:
    database = Database(settings.database_url)
    with database.begin() as connection:
        _, key = keys.create(
            connection, name="k", owner="o", scopes=[keys.Scope.ADMIN], settings=settings
        )
    database.dispose()
    return key


@pytest.mark.column("embedded")
def test_sqlite_is_locked_for_too_long(
    settings: Settings, database: Database, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.database, "LOCK_TIMEOUT_MS", 100)
    file = settings.data_dir / "apiq.db"
    with client_of(settings, tiny_model) as http, closing(sqlite3.connect(file)) as other:
        other.execute("BEGIN IMMEDIATE")  # as a process that was stopped inside a write
        refused(http.post("/jobs", json=JOB))
        assert http.get("/jobs").status_code == 200  # readers do not wait for writers
        other.rollback()
        assert http.post("/jobs", json=JOB).status_code == 202


@pytest.mark.column("embedded")
def test_sqlite_is_read_while_many_writers_wait(
    settings: Settings, database: Database, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.database, "LOCK_TIMEOUT_MS", 6000)
    file, writers = settings.data_dir / "apiq.db", 30
    with client_of(settings, tiny_model) as http, closing(sqlite3.connect(file)) as other:
        job = http.post("/jobs", json=JOB).json()["urls"]["self"]
        other.execute("BEGIN IMMEDIATE")
        with ThreadPoolExecutor(writers) as threads:
            waiting = [threads.submit(http.post, f"{job}/cancel") for _ in range(writers)]
            time.sleep(1)  # all of them have a connection, or wait for one
            began = time.monotonic()
            assert http.get(job).json()["state"] == "queued"
            assert time.monotonic() - began < 2
            assert not any(future.done() for future in waiting)
            other.rollback()
            assert {future.result().status_code for future in waiting} == {202}


@pytest.mark.column("embedded")
def test_sqlite_has_no_room_left(
    settings: Settings, database: Database, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with client_of(settings, tiny_model) as http:
        context = http.app.state.context  # type: ignore[attr-defined]
        with context.database.begin() as connection:  # the only one in the pool
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        large = {"metadata": {"text": "x" * 16_000}}
        answers = [http.post("/jobs", json=JOB | large) for _ in range(30)]
        refused(answers[-1], "disk_full")
        assert http.get("/jobs").status_code == 200
