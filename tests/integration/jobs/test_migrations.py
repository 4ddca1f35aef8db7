"""The migrations make what jobs/schema.py says."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import inspect
from sqlalchemy.exc import IntegrityError

import migrations
from jobs import datasets, repository
from jobs.database import Database
from jobs.datasets import Dataset
from jobs.schema import metadata
from jobs.settings import Settings
from migrations.__main__ import upgrade


def statements(url: str) -> dict[str, list[str]]:
    database = Database(url)
    query = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'alembic%'"
    with database.read() as connection:
        found = {name: definitions(sql) for name, sql in connection.exec_driver_sql(query)}
    database.dispose()
    return found


def definitions(sql: str) -> list[str]:
    """Columns and constraints of a statement; a column that was added later comes last in it."""
    head, _, body = re.sub(r"\s+", " ", sql).partition("(")
    head = head.replace('"', "")  # the name of a table that was made anew
    return [head, *sorted(re.split(r", (?![^(]*\))", body.strip().removesuffix(")").strip()))]


def downgrade(url: str, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.attributes["database_url"] = url
    command.downgrade(config, revision)


def test_migrated_equals_declared(tmp_path: Path, migrated_file: Path) -> None:
    declared = f"sqlite:///{tmp_path / 'declared.db'}"
    database = Database(declared)
    metadata.create_all(database.engine)
    database.dispose()
    assert statements(f"sqlite:///{migrated_file}") == statements(declared)


def test_migrating_again_changes_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new' / 'apiq.db'}"
    upgrade(url)
    database = Database(url)
    with database.begin() as connection:
        job = repository.accept(connection, type="quantize", input={})
    upgrade(url)
    with database.read() as connection:
        assert repository.get(connection, job.id) == job
    database.dispose()


def test_a_job_survives_the_way_down_and_up(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'apiq.db'}"
    upgrade(url)
    newest = statements(url)
    database = Database(url)
    labels = {"team": "a", "it's.a-key": 'ü "quoted"'}
    with database.begin() as connection:
        job = repository.accept(connection, type="quantize", input={"model": "m"}, labels=labels)
        history = repository.events_after(connection, job.id)
    downgrade(url, "0001")
    assert not {"checkpoints", "job_labels"} & statements(url).keys()
    upgrade(url)
    assert statements(url) == newest
    with database.read() as connection:
        assert repository.get(connection, job.id) == job
        assert repository.events_after(connection, job.id) == history
        for filters in ({"model": "m"}, *({"labels": {key: labels[key]}} for key in labels)):
            assert repository.list_jobs(connection, **filters)[0] == [job]  # type: ignore[arg-type]
    database.dispose()


def test_a_text_survives_the_way_down_and_up(database: Database, settings: Settings) -> None:
    text = dataset("text", rows=None, duplicates=None)
    with database.begin() as connection:
        datasets.reserve(connection, text, settings)
        datasets.confirm(connection, text)
    downgrade(settings.database_url, "0003")
    with database.read() as connection:
        (before,) = connection.exec_driver_sql("SELECT * FROM datasets").mappings()
    assert "rows" not in before and before["id"] == text.id
    upgrade(settings.database_url)
    with database.read() as connection:
        assert datasets.list_page(connection) == ([text], None)


@pytest.mark.filterwarnings("ignore:Skipped unsupported reflection of expression-based index")
def test_on_the_way_down_nobody_was_told_of_a_job(database: Database, settings: Settings) -> None:
    with database.begin() as connection:
        job = repository.accept(connection, type="quantize", input={})
    assert told(database) == (None, False)
    downgrade(settings.database_url, "0006")
    assert told(database) == (False, True)
    with database.read() as connection:
        assert connection.exec_driver_sql("SELECT rung_at FROM jobs").scalars().all() == [0]
    upgrade(settings.database_url)
    assert told(database) == (None, False)
    with database.read() as connection:
        assert repository.get(connection, job.id) == job


def told(database: Database) -> tuple[bool | None, bool]:
    """Whether `rung_at` may be NULL, if it is there; whether its index is."""
    with database.read() as connection:
        found = inspect(connection)
        columns = {column["name"]: column["nullable"] for column in found.get_columns("jobs")}
        indexes = {index["name"] for index in found.get_indexes("jobs")}
    return columns.get("rung_at"), "ix_jobs_rung" in indexes


def test_there_is_no_way_down_for_rows(database: Database, settings: Settings) -> None:
    rows = dataset("rows", rows=3, duplicates=0)
    with database.begin() as connection:
        datasets.reserve(connection, rows, settings)
        datasets.confirm(connection, rows)
    with pytest.raises(IntegrityError, match="ck_datasets_kind"):
        downgrade(settings.database_url, "0003")
    with database.read() as connection:
        assert datasets.list_page(connection) == ([rows], None)


def dataset(kind: str, *, rows: int | None, duplicates: int | None) -> Dataset:
    return Dataset(
        id="ds_1",
        owner="ada",
        name=None,
        kind=kind,
        size_bytes=20,
        characters=19,
        rows=rows,
        duplicates=duplicates,
        sha256="0" * 64,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


@pytest.mark.parametrize(
    ("kind", "rows", "duplicates"),
    [("text", 1, None), ("text", None, 0), ("rows", None, 0), ("rows", 1, None), ("x", 1, 0)],
)
def test_counts_are_of_rows(
    database: Database, settings: Settings, kind: str, rows: int | None, duplicates: int | None
) -> None:
    with pytest.raises(IntegrityError, match="ck_datasets_"), database.begin() as connection:
        datasets.reserve(connection, dataset(kind, rows=rows, duplicates=duplicates), settings)


@pytest.mark.parametrize(
    "change",
    [
        "state = 'paused'",
        "state = 'running'",  # without a lease
        "lease_until = 1",  # of a job that nobody holds
        "state = 'succeeded'",  # without an end
        "state = 'failed', finished_at = 1",  # without an error
        "attempt = -1",
    ],
)
def test_the_database_refuses_what_cannot_be(database: Database, change: str) -> None:
    with database.begin() as connection:
        repository.accept(connection, type="quantize", input={})
    with pytest.raises(IntegrityError, match=r"(?i)check"), database.begin() as connection:
        connection.exec_driver_sql(f"UPDATE jobs SET {change}")
