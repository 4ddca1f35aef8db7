"""Uploaded datasets: kept in the artifact store, recorded in a row."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, RowMapping, insert, or_, select, update

from jobs import cursors, quotas, schema
from jobs.clock import from_now, now
from jobs.datasets.files import SOURCE
from jobs.errors import DatasetInUse, DatasetNotFound
from jobs.settings import Settings
from jobs.states import TERMINAL

ABANDONED_AFTER_S = 24 * 3600.0  # no upload takes a day

_datasets = schema.datasets


@dataclass(frozen=True)
class Dataset:
    """A text, or rows to train on, that was uploaded."""

    id: str  # ds_ + uuid7
    owner: str  # who uploaded it; empty where there are no keys
    name: str | None  # what its uploader calls it
    kind: str  # text, rows
    size_bytes: int
    characters: int
    rows: int | None  # NULL of a text, here and below
    duplicates: int | None  # rows that an earlier line has word for word
    sha256: str
    created_at: datetime
    # characters of the row in which most is said; NULL of those from before it was counted, too
    longest_row_characters: int | None = None
    chats: int | None = None  # rows that are messages; NULL of those from before, too
    origin: dict[str, Any] | None = None  # where it was fetched from; NULL: uploaded


def reserve(connection: Connection, dataset: Dataset, settings: Settings) -> None:
    """Record a dataset before its bytes are stored; raises `QuotaExceeded`.

    Nobody sees it before it is confirmed. If that has not happened within a day, a sweep removes
    what there is of it.
    """
    quotas.check_upload(connection, dataset.owner, dataset.size_bytes, settings)
    deleted_at = from_now(ABANDONED_AFTER_S)
    connection.execute(insert(_datasets).values(**vars(dataset), deleted_at=deleted_at))


def confirm(connection: Connection, dataset: Dataset) -> None:
    """Its bytes are in the store: from now on it is there."""
    connection.execute(
        update(_datasets).where(_datasets.c.id == dataset.id).values(deleted_at=None)
    )


def abandon(connection: Connection, dataset: Dataset) -> None:
    """Its bytes could not be stored: a sweep removes what there is of it."""
    connection.execute(
        update(_datasets).where(_datasets.c.id == dataset.id).values(deleted_at=now())
    )


def get(connection: Connection, dataset_id: str, owner: str | None = None) -> Dataset:
    """Raises `DatasetNotFound`. `owner`: None for everybody's, here and below."""
    return _one(connection, dataset_id, owner)


def lock(connection: Connection, dataset_id: str, owner: str | None = None) -> Dataset:
    """As `get`, and nobody deletes it before this transaction ends. Others may lock it too."""
    return _one(connection, dataset_id, owner, "shared")


def list_page(
    connection: Connection, owner: str | None = None, *, after: str | None = None, limit: int = 50
) -> tuple[list[Dataset], str | None]:
    """A page of datasets, newest first, and the cursor of the next page if there is one.

    Raises `InvalidCursor`.
    """
    query = select(_datasets).where(*_visible(owner)).limit(limit + 1)
    if after is not None:
        query = query.where(_datasets.c.id < cursors.decode(after, "ds_"))
    query = query.order_by(_datasets.c.id.desc())
    found = [_from_row(row) for row in connection.execute(query).mappings()]
    page = found[:limit]
    return page, cursors.encode(page[-1].id) if len(found) > limit else None


def delete(connection: Connection, dataset_id: str, owner: str | None = None) -> None:
    """Hide it for good; a sweep removes its bytes and then the row.

    Raises `DatasetInUse` while a job that has not ended reads it.
    """
    _one(connection, dataset_id, owner, "alone")  # waits for those who are accepting such a job
    jobs, source = schema.jobs, f"{SOURCE}{dataset_id}"
    query = (
        select(jobs.c.id)
        .where(jobs.c.state.not_in([state.value for state in TERMINAL]))
        .where(
            or_(
                jobs.c.input["calibration"]["source"].as_string() == source,
                jobs.c.input["evaluation"]["source"].as_string() == source,
                jobs.c.input["dataset"].as_string() == dataset_id,
                jobs.c.input["validation"].as_string() == dataset_id,
            )
        )
        .limit(1)
    )
    if (job_id := connection.execute(query).scalar()) is not None:
        raise DatasetInUse(f"{dataset_id} is used by {job_id}; cancel that job or wait for it")
    connection.execute(
        update(_datasets).where(_datasets.c.id == dataset_id).values(deleted_at=now())
    )


def _visible(owner: str | None) -> tuple[ColumnElement[bool], ...]:
    visible = (_datasets.c.deleted_at.is_(None),)
    return visible if owner is None else (*visible, _datasets.c.owner == owner)


def _one(
    connection: Connection,
    dataset_id: str,
    owner: str | None,
    lock: Literal["shared", "alone"] | None = None,
) -> Dataset:
    query = select(_datasets).where(_datasets.c.id == dataset_id, *_visible(owner))
    if lock is not None:  # SQLite ignores it: its transaction locks the file
        query = query.with_for_update(read=lock == "shared")
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        raise DatasetNotFound(f"there is no dataset {dataset_id}")
    return _from_row(row)


def _from_row(row: RowMapping) -> Dataset:
    return Dataset(**{name: row[name] for name in Dataset.__dataclass_fields__})
