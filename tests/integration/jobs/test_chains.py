"""A job that waits for another one: who sees it meanwhile, and what ends the wait."""

import json
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import update
from sqlalchemy.exc import IntegrityError

from jobs import datasets, intake, leases, maintenance, repository, schema, secrets, texts
from jobs.artifacts import MANIFEST
from jobs.clock import from_now, now
from jobs.database import Database
from jobs.datasets import Dataset
from jobs.errors import QuotaExceeded
from jobs.intake import Order
from jobs.job import Artifact, Job
from jobs.requests import FinetuneRequest
from jobs.settings import Settings
from jobs.states import State
from tests.integration.jobs.test_limits import claim, get
from tests.integration.jobs.test_migrations import downgrade
from tests.tiny_models import make_tiny

SHA = "5" * 64
FILES = [Artifact(MANIFEST, 1, SHA, "application/json", "jobs/j/attempts/1/manifest.json")]
ERROR = {"code": "it_broke", "message": "it broke", "fault": "infra", "retryable": True}

NUMBERS = count()  # of datasets


@pytest.fixture(autouse=True)
def model(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(texts, "default_source", lambda _: texts.BUILTIN)
    return make_tiny(settings.models_dir / "tiny")


def order(database: Database, settings: Settings, owner: str = "", **fields: Any) -> Order:
    """Of a chain, on a dataset of that owner."""
    with database.begin() as connection:
        moment = connection.execute(now().select()).scalar_one()
        name = f"ds_{next(NUMBERS):032}"
        dataset = Dataset(name, owner, None, "text", 900, 900, None, None, SHA, moment)
        datasets.reserve(connection, dataset, settings)
        datasets.confirm(connection, dataset)
    asked = {"type": "finetune", "base": "tiny", "bits": 2, "dataset": name} | fields
    return Order(FinetuneRequest.model_validate(asked), owner)


def submit(database: Database, settings: Settings, **fields: Any) -> tuple[Job, Job]:
    job = intake.submit(database, order(database, settings, **fields), settings)
    assert job.waits_for is not None
    with database.read() as connection:
        return repository.get(connection, job.waits_for), job


def sweep(database: Database, settings: Settings) -> maintenance.Swept:
    with database.begin() as connection:
        return maintenance.sweep(connection, settings)


def publish(database: Database, job: Job) -> None:
    with database.begin() as connection:
        leases.publish(connection, job.id, job.attempt, FILES, {})


def test_nobody_claims_it(database: Database, settings: Settings) -> None:
    base, job = submit(database, settings, priority=100)
    claimed = claim(database)
    assert claimed is not None and claimed.id == base.id
    assert claim(database) is None
    publish(database, claimed)
    taken = claim(database)
    assert taken is not None and taken.id == job.id
    assert taken.input["base_manifest_sha256"] == SHA


def test_a_base_that_is_lost_once_is_waited_for_on(database: Database, settings: Settings) -> None:
    settings = settings.model_copy(update={"retry_backoff_s": 0.0, "max_infra_losses": 2})
    _, job = submit(database, settings)
    for state in (State.QUEUED, State.FAILED):
        claimed = claim(database)
        assert claimed is not None
        with database.begin() as connection:
            connection.execute(
                update(schema.jobs)
                .where(schema.jobs.c.id == claimed.id)
                .values(lease_until=from_now(-1))
            )
        sweep(database, settings)
        assert get(database, job).state == state
    error = get(database, job).error
    assert error is not None
    assert (error["code"], error["base_code"], error["fault"]) == (
        "base_failed",
        "worker_lost",
        "infra",
    )


def test_the_queue_has_room_for_both_or_for_neither(database: Database, settings: Settings) -> None:
    settings = settings.model_copy(update={"max_queued_jobs_per_owner": 3})
    first = order(database, settings, "ada")
    intake.submit(database, first, settings)
    with pytest.raises(QuotaExceeded):
        intake.submit(database, first, settings)
    assert claim(database) is not None  # the base; the other still waits
    intake.submit(database, first, settings)
    with database.read() as connection:
        assert len(repository.list_jobs(connection)[0]) == 4


def test_the_token_goes_with_the_job_that_reads_the_model(
    database: Database, settings: Settings
) -> None:
    settings = settings.model_copy(update={"secret_key": SecretStr("x" * 32)})
    base, job = submit(database, settings, hub_token="hf_canary")
    with database.begin() as connection:
        assert secrets.hub_token(connection, base.id, settings) == "hf_canary"
        assert secrets.hub_token(connection, job.id, settings) is None
        repository.request_cancel(connection, job.id)
        retried = intake.retry(connection, job.id, settings, hub_token=SecretStr("hf_second"))
        assert secrets.hub_token(connection, retried.id, settings) is None
        assert secrets.hub_token(connection, str(retried.waits_for), settings) == "hf_second"
        found = repository.events_after(connection, base.id)
        assert "canary" not in json.dumps([e.data for e in found])


def test_only_what_is_queued_can_wait(database: Database, settings: Settings) -> None:
    _, job = submit(database, settings)
    running = {"state": State.RUNNING, "lease_until": from_now(60)}
    with pytest.raises(IntegrityError, match="ck_jobs_waits_for"), database.begin() as connection:
        connection.execute(update(schema.jobs).where(schema.jobs.c.id == job.id).values(running))


def test_no_way_down_while_a_job_waits(database: Database, settings: Settings) -> None:
    _, job = submit(database, settings)
    with pytest.raises(RuntimeError, match="1 jobs wait for another one"):
        downgrade(settings.database_url, "0004")
    with database.begin() as connection:
        repository.request_cancel(connection, job.id)
    downgrade(settings.database_url, "0004")


def test_a_chain_among_others_in_one_commit(database: Database, settings: Settings) -> None:
    one, other = (order(database, settings) for _ in range(2))
    broken = replace(one, request=one.request.model_copy(update={"dataset": f"ds_{'9' * 32}"}))
    first, error, last = intake.submit_all(database, [one, broken, other], settings)
    assert isinstance(first, Job) and isinstance(last, Job) and isinstance(error, Exception)
    with database.read() as connection:
        found, _ = repository.list_jobs(connection)
    assert [job.id for job in found] == [last.id, last.waits_for, first.id, first.waits_for]
