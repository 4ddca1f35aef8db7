"""Accept, list, cancel, events on a real database."""

import threading

import pytest

from jobs import leases, repository
from jobs.database import Database
from jobs.errors import InvalidCursor, JobAlreadyFinished, JobNotFound
from jobs.job import Job
from jobs.states import State


def accept(database: Database, **fields: object) -> Job:
    with database.begin() as connection:
        return repository.accept(connection, type="quantize", **{"input": {}} | fields)  # type: ignore[arg-type]


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
