"""Requests that arrive at the same moment are committed together, and each gets what is its own."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from apiq_core.errors import InfraError, UserError
from jobs import intake, models, repository, texts
from jobs.database import Database, is_away
from jobs.errors import IdempotencyKeyReused, QuotaExceeded
from jobs.intake import Order, RequestName
from jobs.job import Job
from jobs.repository import NewJob
from jobs.requests import QuantizeRequest
from jobs.settings import Settings
from tests.tiny_models import make_tiny


@pytest.fixture(autouse=True)
def model(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(texts, "default_source", lambda _: texts.BUILTIN)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    return make_tiny(settings.models_dir / "tiny")


def order(owner: str = "", key: str | None = None, **fields: Any) -> Order:
    request = QuantizeRequest.model_validate({"model": "tiny", "bits": 2} | fields)
    return Order(request, owner, RequestName(key, request.body_sha256()) if key else None)


def all_jobs(database: Database) -> set[str]:
    with database.read() as connection:
        return {job.id for job in repository.list_jobs(connection)[0]}


def commits(database: Database) -> list[int]:
    """Grows by one with every commit of this process."""
    seen: list[int] = []
    event.listen(database.engine, "commit", lambda _: seen.append(1))
    return seen


def test_one_that_fails_harms_no_other(database: Database, settings: Settings) -> None:
    settings = settings.model_copy(update={"max_queued_jobs_per_owner": 1})
    first = intake.submit(database, order("ada", "used"), settings)
    orders = [
        order(labels={"n": "0"}),
        order(model="nowhere"),
        order("ada"),  # has one in the queue already
        order("bob"),
        order("bob"),  # the second
        order(calibration={"source": f"dataset:ds_{'0' * 32}"}),
        order("ada", "used"),  # the same request once more
        order("ada", "used", bits=3),
        order(labels={"n": "1"}),
    ]
    seen = commits(database)
    answers = intake.submit_all(database, orders, settings)
    assert [type(answer) for answer in answers] == [
        Job,
        InfraError,  # the hub, which might have it, is away
        QuotaExceeded,
        Job,
        QuotaExceeded,
        UserError,
        Job,
        IdempotencyKeyReused,
        Job,
    ]
    assert len(seen) <= 2  # to look at the idempotency keys, and to write
    assert answers[6] == first
    made = {answer.id for answer in answers if isinstance(answer, Job)}
    assert all_jobs(database) == made and len(made) == 4
    assert [answer.labels for answer in answers if isinstance(answer, Job)][::3] == [
        {"n": "0"},
        {"n": "1"},
    ]


def test_the_same_request_twice_in_one_commit(database: Database, settings: Settings) -> None:
    answers = intake.submit_all(
        database, [order(key="k"), order(), order(key="k"), order(key="k", bits=8)], settings
    )
    first, other, again, reused = answers
    assert isinstance(first, Job) and again == first and other != first
    assert isinstance(reused, IdempotencyKeyReused)
    assert len(all_jobs(database)) == 2


def test_a_commit_that_fails_makes_no_job(database: Database, settings: Settings) -> None:
    def broken(_: Any) -> None:
        raise OperationalError("COMMIT", {}, Exception("the disk is gone"))

    event.listen(database.engine, "commit", broken)
    with pytest.raises(OperationalError):
        intake.submit_all(database, [order(), order()], settings)
    event.remove(database.engine, "commit", broken)
    assert all_jobs(database) == set()


def test_many_processes_send_the_same_names(database: Database, settings: Settings) -> None:
    """In opposite orders: whoever would wait for the other in a circle tries again alone."""
    names = [f"k{number}" for number in range(20)]
    answers: dict[bool, list[Job | Exception]] = {}
    start = threading.Barrier(2)

    def send(turned: bool) -> None:
        orders = [order(key=name) for name in names]
        start.wait()
        answers[turned] = intake.submit_all(database, orders[:: -1 if turned else 1], settings)

    threads = [threading.Thread(target=send, args=(turned,)) for turned in (False, True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers[False] == answers[True][::-1]
    assert len(all_jobs(database)) == len(names)


@pytest.mark.parametrize("known", [True, False])
def test_a_glance_says_whether_the_hub_is_asked(settings: Settings, known: bool) -> None:
    name = "tiny" if known else "org/other"
    assert models.is_local(name, None, settings) == known
    assert not models.is_local(name, "main", settings)
    assert models.is_local(name, "local:0123456789abcdef", settings) == known


@pytest.mark.column("production")
@pytest.mark.parametrize("number", [1, 3])
def test_a_server_that_goes_in_the_middle_is_away_for_all(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    accept_all = repository.accept_all

    def cut(connection: Connection, new: Sequence[NewJob]) -> list[Job]:
        accept_all(connection, new)
        pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        with database.begin() as other:
            other.exec_driver_sql(f"SELECT pg_terminate_backend({pid}, 5000)")
        return accept_all(connection, new)

    monkeypatch.setattr(repository, "accept_all", cut)
    with pytest.raises(SQLAlchemyError) as caught:
        intake.submit_all(database, [order() for _ in range(number)], settings)
    assert is_away(caught.value)
    monkeypatch.undo()
    assert all_jobs(database) == set()
