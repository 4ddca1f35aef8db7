"""What is true of PostgreSQL only."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from uuid import uuid4

import pytest
from sqlalchemy.exc import DBAPIError, OperationalError

import jobs.database
from jobs import leases, repository
from jobs.database import Database
from jobs.schema import metadata
from jobs.settings import Settings
from tests.integration.jobs.test_repository import accept, claim
from tests.servers import Servers

pytestmark = pytest.mark.column("production")


@pytest.fixture
def empty_url(servers: Servers) -> Iterator[str]:
    """A database without tables."""
    name = f"empty_{uuid4().hex}"
    servers.postgres.execute(f"CREATE DATABASE {name}")
    yield servers.postgres.url(name)
    servers.postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


def schema_of(database: Database) -> list[tuple[object, ...]]:
    """Columns, constraints and indexes."""
    queries = (
        "SELECT table_name, column_name, data_type, character_maximum_length, is_nullable,"
        " column_default FROM information_schema.columns WHERE table_schema = 'public'",
        "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE connamespace = 'public'::regnamespace",
        "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
    )
    with database.read() as connection:
        rows = [tuple(row) for query in queries for row in connection.exec_driver_sql(query)]
    return sorted((row for row in rows if row[0] != "alembic_version"), key=repr)


def test_migrated_equals_declared(database: Database, empty_url: str) -> None:
    declared = Database(empty_url)
    metadata.create_all(declared.engine)
    assert schema_of(database) == schema_of(declared)
    declared.dispose()


def test_migrations_at_once_wait_for_each_other(empty_url: str, database: Database) -> None:
    environment = os.environ | {"APIQ_DATABASE_URL": empty_url}
    command = [sys.executable, "-m", "migrations"]
    processes = [subprocess.Popen(command, env=environment) for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    migrated = Database(empty_url)
    assert schema_of(migrated) == schema_of(database)
    migrated.dispose()


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_spelling_of_its_address(settings: Settings, database: Database, scheme: str) -> None:
    url = settings.database_url.replace("postgresql", scheme, 1)
    found = Database(Settings(data_dir=settings.data_dir, database_url=url).database_url)
    assert accept(found).id
    with found.read() as connection:
        name = connection.exec_driver_sql("SHOW application_name").scalar()
    assert (found.engine.dialect.driver, name) == ("psycopg", "apiq")
    found.dispose()


def test_a_read_is_of_one_moment_and_writes_nothing(database: Database) -> None:
    with database.read() as connection:
        assert repository.list_jobs(connection) == ([], None)
        accept(database)
        assert repository.list_jobs(connection) == ([], None)
    with pytest.raises(DBAPIError, match="read-only"), database.read() as connection:
        connection.exec_driver_sql("DELETE FROM jobs")
    accept(database)  # the connection may write again


def test_who_hangs_in_a_transaction_loses_it(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = accept(database)
    monkeypatch.setattr(jobs.database, "IDLE_IN_TRANSACTION_TIMEOUT_MS", 300)
    hanging = Database(settings.database_url)
    done = threading.Event()
    with pytest.raises(OperationalError), hanging.begin() as connection:
        repository.request_cancel(connection, job.id)
        claimed = claim_another(database)  # what others hold locks on is left alone
        assert claimed is None
        with database.begin() as other:  # and whoever needs that very row gets it soon
            repository.request_cancel(other, job.id)
        done.set()
        repository.request_cancel(connection, job.id)
    assert done.is_set()
    accept(hanging)  # on another connection
    hanging.dispose()


def claim_another(database: Database) -> object:
    with database.begin() as connection:
        return leases.claim(connection, worker_id="w", device_class="cpu", lease_ttl_s=60)


def test_a_lock_is_not_waited_for_for_ever(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = accept(database)
    monkeypatch.setattr(jobs.database, "LOCK_TIMEOUT_MS", 200)
    waiting = Database(settings.database_url)
    with database.begin() as connection:
        repository.request_cancel(connection, job.id)
        with pytest.raises(OperationalError, match="lock timeout"), waiting.begin() as other:
            repository.request_cancel(other, job.id)
    waiting.dispose()


def test_a_server_that_is_away_and_comes_back(own_servers: Servers) -> None:
    server = own_servers.postgres
    database = Database(server.url("postgres"))
    metadata.create_all(database.engine)
    job = accept(database)
    for end in (server.stop, server.kill):
        end()
        for attempt in (claim, accept):
            with pytest.raises(OperationalError):
                attempt(database)
        server.start()
        with database.read() as connection:
            assert repository.get(connection, job.id) == job
    database.dispose()
