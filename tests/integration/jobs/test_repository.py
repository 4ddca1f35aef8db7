"""Accept, list, cancel, events on a real database."""

import threading
from typing import Any

import pytest
from sqlalchemy import select

from jobs import leases, maintenance, repository
from jobs.database import Database
from jobs.errors import InvalidCursor, JobAlreadyFinished, JobNotFound
from jobs.job import Job
from jobs.repository import NewJob
from jobs.schema import job_labels
from jobs.states import State


def accept(database: Database, **fields: Any) -> Job:
    with database.begin() as connection:
        return repository.accept(connection, type="quantize", **{"input": {}} | fields)


def claim(database: Database) -> Job | None:
    with database.begin() as connection:
        return leases.claim(connection, worker_id="w", device_class="cpu", lease_ttl_s=60)


def event_types(database: Database, job: Job) -> list[str]:
    with database.read() as connection:
        events = repository.events_after(connection, job.id)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    return [event.type for event in events]


def test_an_accepted_job_is_queued_with_its_first_event(database: Database) -> None:
    job = accept(database, input={"model": "m"}, labels={"a": "b"}, metadata={"x": [1, None]})
    with database.read() as connection:
        assert repository.get(connection, job.id) == job
    assert (job.state, job.attempt, job.error, job.metadata) == (
        State.QUEUED,
        0,
        None,
        {"x": [1, None]},
    )
    assert event_types(database, job) == ["accepted"]


def test_a_transaction_that_fails_leaves_no_job(database: Database) -> None:
    with pytest.raises(RuntimeError), database.begin() as connection:
        repository.accept(connection, type="quantize", input={})
        raise RuntimeError
    with database.read() as connection:
        assert repository.list_jobs(connection) == ([], None)


def test_unknown_job(database: Database) -> None:
    with database.read() as connection, pytest.raises(JobNotFound, match="job_nothing"):
        repository.get(connection, "job_nothing")


def test_pages_are_newest_first_and_whole(database: Database) -> None:
    ids = [accept(database).id for _ in range(7)]
    seen: list[str] = []
    after = None
    while True:
        with database.read() as connection:
            page, after = repository.list_jobs(connection, after=after, limit=3)
        seen += [job.id for job in page]
        accept(database)  # what comes meanwhile shifts nothing
        if after is None:
            break
    assert seen == ids[::-1]


def test_filters(database: Database) -> None:
    first = accept(database, input={"model": "org/a"}, labels={"team.x": "1", "kind": "n"})
    second = accept(database, input={"model": "org/b"}, labels={"team.x": "2", "kind": "n"})
    claim(database)

    def found(**filters: object) -> list[str]:
        with database.read() as connection:
            return [job.id for job in repository.list_jobs(connection, **filters)[0]]  # type: ignore[arg-type]

    assert found(state=State.RUNNING) == [first.id]
    assert found(model="org/b") == [second.id]
    assert found(labels={"team.x": "1"}) == [first.id]
    assert found(labels={"kind": "n"}) == [second.id, first.id]
    assert found(labels={"kind": "n", "team.x": "3"}) == []
    assert found(type="finetune") == []
    assert found(model="org/b", labels={"kind": "n"}, state=State.QUEUED) == [second.id]
    assert found(model="org/b", labels={"kind": "n"}, owner="ada") == []


def test_pages_of_a_label(database: Database) -> None:
    ids = [accept(database, labels={"n": str(number % 2), "x": "y"}).id for number in range(8)]
    for labels in ({"n": "1"}, {"n": "1", "x": "y"}, {"x": "y", "n": "1"}):
        with database.read() as connection:
            page, after = repository.list_jobs(connection, labels=labels, limit=3)
            rest, end = repository.list_jobs(connection, labels=labels, after=after, limit=3)
        assert [job.id for job in page + rest] == ids[::-2]
        assert end is None


def test_the_labels_of_a_deleted_job_go_with_it(database: Database) -> None:
    job = accept(database, labels={"team": "a"})
    kept = accept(database, labels={"team": "a"})
    with database.begin() as connection:
        repository.request_cancel(connection, job.id)
        repository.delete(connection, job.id)
        assert repository.list_jobs(connection, labels={"team": "a"})[0] == [kept]
        maintenance.forget_job(connection, job.id)
        assert connection.execute(select(job_labels.c.job_id)).scalars().all() == [kept.id]


def test_many_at_once_are_what_each_is_alone(database: Database) -> None:
    ada, bob = accept(database, owner="ada"), accept(database, owner="bob")
    deleted = accept(database)
    with database.begin() as connection:
        repository.request_cancel(connection, deleted.id)
        repository.delete(connection, deleted.id)
    wanted = [
        (bob.id, None),
        (ada.id, "ada"),
        (bob.id, "ada"),
        ("job_nothing", None),
        (deleted.id, None),
        (ada.id, "ada"),
    ]
    with database.read() as connection:
        found = repository.get_many(connection, wanted)
        for (job_id, owner), answer in zip(wanted, found, strict=True):
            try:
                assert repository.get(connection, job_id, owner) == answer
            except JobNotFound as error:
                assert isinstance(answer, JobNotFound) and answer.message == error.message
    assert [answer.id if isinstance(answer, Job) else None for answer in found] == [
        bob.id,
        ada.id,
        None,
        None,
        None,
        ada.id,
    ]


def test_jobs_that_are_accepted_together(database: Database) -> None:
    with database.begin() as connection:
        made = repository.accept_all(
            connection,
            [
                NewJob("quantize", {"model": "a"}, labels={"x": "1", "y": "2"}, priority=3),
                NewJob("quantize", {"model": "b"}, max_pending_s=60, metadata={"k": None}),
                NewJob("quantize", {"model": "c"}, owner="ada", idempotency_key="k"),
            ],
        )
    with database.read() as connection:
        assert [repository.get(connection, job.id) for job in made] == made
    assert [job.input["model"] for job in made] == ["a", "b", "c"]
    assert [job.priority for job in made] == [3, 0, 0]
    pending = [job.expires_at and (job.expires_at - job.created_at).total_seconds() for job in made]
    assert pending == [None, pytest.approx(60, abs=0.5), None]
    assert [event_types(database, job) for job in made] == [["accepted"]] * 3


@pytest.mark.parametrize("cursor", ["x", "%%%", "am9i", "", "caf\u00e9", "am9iXwo="])
def test_a_cursor_that_was_never_given_out(database: Database, cursor: str) -> None:
    with database.read() as connection, pytest.raises(InvalidCursor, match="cursor"):
        repository.list_jobs(connection, after=cursor)


def test_cancel_while_queued_is_immediate(database: Database) -> None:
    job = accept(database)
    for _ in range(2):  # asking twice is no error
        with database.begin() as connection:
            job = repository.request_cancel(connection, job.id)
        assert job.state == State.CANCELLED
        assert job.finished_at is not None
    assert event_types(database, job) == ["accepted", "cancelled"]
    assert claim(database) is None


def test_cancel_while_running_asks_the_worker(database: Database) -> None:
    accept(database)
    job = claim(database)
    assert job is not None
    for _ in range(2):
        with database.begin() as connection:
            assert repository.request_cancel(connection, job.id).state == State.CANCELLING
    with database.begin() as connection:
        assert leases.beat(connection, job.id, 1, 60).cancel
    assert event_types(database, job) == ["accepted", "started", "cancelling"]


def test_cancel_after_the_end_is_refused(database: Database) -> None:
    accept(database)
    job = claim(database)
    assert job is not None
    with database.begin() as connection:
        leases.publish(connection, job.id, 1, [], {})
    with database.begin() as connection, pytest.raises(JobAlreadyFinished, match="succeeded"):
        repository.request_cancel(connection, job.id)
    with database.begin() as connection, pytest.raises(JobNotFound):
        repository.request_cancel(connection, "job_nothing")


def test_a_reader_waits_for_no_writer(database: Database) -> None:
    job = accept(database)
    with database.begin() as writer:
        repository.request_cancel(writer, job.id)
        with database.read() as reader:
            assert repository.get(reader, job.id).state == State.QUEUED
    with database.read() as reader:
        assert repository.get(reader, job.id).state == State.CANCELLED


def test_events_of_many_writers_have_no_gap(database: Database) -> None:
    accept(database)
    job = claim(database)
    assert job is not None

    def write() -> None:
        for number in range(10):
            with database.begin() as connection:
                leases.record(connection, job.id, 1, [("block", {"index": number})] * 2)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(event_types(database, job)) == 2 + 4 * 10 * 2
    with database.read() as connection:
        assert [e.seq for e in repository.events_after(connection, job.id, 5, 3)] == [6, 7, 8]
