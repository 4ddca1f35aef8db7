"""Uploaded texts: checked while they arrive, kept in the artifact store, recorded in a row."""

import codecs
import hashlib
import shutil
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import uuid_utils
from sqlalchemy import ColumnElement, Connection, RowMapping, insert, or_, select, update

from apiq_core.errors import UserError
from jobs import quotas, schema
from jobs.artifacts import ArtifactStore
from jobs.clock import from_now, now
from jobs.errors import DatasetInUse, DatasetNotFound
from jobs.settings import Settings
from jobs.states import TERMINAL
from jobs.texts import DATASET, dataset_key

ABANDONED_AFTER_S = 24 * 3600.0  # no upload takes a day

_datasets = schema.datasets


@dataclass(frozen=True)
class Dataset:
    """A text that was uploaded."""

    id: str  # ds_ + uuid7
    owner: str  # who uploaded it; empty where there are no keys
    name: str | None  # what its uploader calls it
    kind: str  # text
    size_bytes: int
    characters: int
    sha256: str
    created_at: datetime


class DatasetTooLarge(UserError):
    """The upload is larger than the server takes."""

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            "dataset_too_large",
            f"the text has {size_bytes} bytes or more; legal: at most {limit_bytes} bytes",
            value=size_bytes,
            legal={"at_most": limit_bytes},
        )


def prune_uploads(settings: Settings) -> None:
    """Remove what uploads left behind whose process was killed."""
    oldest = time.time() - ABANDONED_AFTER_S
    for folder in _uploads(settings).glob("*"):
        if folder.stat().st_mtime < oldest:
            shutil.rmtree(folder, ignore_errors=True)


def _uploads(settings: Settings) -> Path:
    return settings.data_dir / "uploads"


class TextUpload:
    """A text on its way in: `write` chunks, `finish`, `put` it into a store.

    Lies in a temporary folder until then, which is removed whatever happens.
    """

    def __init__(self, settings: Settings, limit_bytes: int) -> None:
        _uploads(settings).mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(dir=_uploads(settings)))
        self._file = (self._folder / "data.txt").open("wb")
        self._limit_bytes = limit_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._digest = hashlib.sha256()
        self._size_bytes = 0
        self._characters = 0
        self._is_blank = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def expect(self, size_bytes: int) -> None:
        """Refuse what says beforehand that it is too large."""
        if size_bytes > self._limit_bytes:
            raise DatasetTooLarge(size_bytes, self._limit_bytes)

    def write(self, chunk: bytes) -> None:
        """Check and keep a chunk; a character may lie across two."""
        self.expect(self._size_bytes + len(chunk))
        self._decode(chunk, final=False)
        self._file.write(chunk)
        self._digest.update(chunk)
        self._size_bytes += len(chunk)

    def finish(self, name: str | None, owner: str = "") -> Dataset:
        """The last chunk was written; refuse a text that breaks off or says nothing."""
        self._decode(b"", final=True)
        if self._is_blank:
            raise UserError(
                "empty_dataset",
                f"the text is empty ({self._size_bytes} bytes, all white space); "
                "legal: text in UTF-8",
                value=self._size_bytes,
            )
        self._file.close()
        return Dataset(
            id=f"ds_{uuid_utils.uuid7()}",
            owner=owner,
            name=name,
            kind="text",
            size_bytes=self._size_bytes,
            characters=self._characters,
            sha256=self._digest.hexdigest(),
            created_at=datetime.now(UTC).replace(microsecond=0),  # rows keep milliseconds
        )

    def put(self, store: ArtifactStore, dataset: Dataset) -> None:
        """Move the text into the store, between `reserve` and `confirm`."""
        store.put_file(dataset_key(dataset.id), Path(self._file.name))

    def _decode(self, chunk: bytes, *, final: bool) -> None:
        pending = len(self._decoder.getstate()[0])  # bytes of a character that began before
        try:
            text = self._decoder.decode(chunk, final)
        except UnicodeDecodeError as error:
            at = self._size_bytes - pending + error.start
            raise UserError(
                "not_utf8",
                f"byte {at} (0x{error.object[error.start]:02x}) is not UTF-8: {error.reason}; "
                "legal: text in UTF-8",
                value=at,
            ) from None
        self._characters += len(text)
        self._is_blank = self._is_blank and not text.strip("\ufeff \t\r\n\0")


def reserve(connection: Connection, dataset: Dataset, settings: Settings) -> None:
    """Record a text before its bytes are stored; raises `QuotaExceeded`.

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
    return _one(connection, dataset_id, owner, lock=False)


def lock(connection: Connection, dataset_id: str, owner: str | None = None) -> Dataset:
    """As `get`, and nobody deletes it before this transaction ends."""
    return _one(connection, dataset_id, owner, lock=True)


def list_all(connection: Connection, owner: str | None = None, limit: int = 1000) -> list[Dataset]:
    """Newest first."""
    query = select(_datasets).where(*_visible(owner)).order_by(_datasets.c.id.desc()).limit(limit)
    return [_from_row(row) for row in connection.execute(query).mappings()]


def delete(connection: Connection, dataset_id: str, owner: str | None = None) -> None:
    """Hide it for good; a sweep removes the text and then the row.

    Raises `DatasetInUse` while a job that has not ended reads the text.
    """
    _one(connection, dataset_id, owner, lock=True)
    jobs, source = schema.jobs, f"{DATASET}{dataset_id}"
    query = (
        select(jobs.c.id)
        .where(jobs.c.state.not_in([state.value for state in TERMINAL]))
        .where(
            or_(
                jobs.c.input["calibration"]["source"].as_string() == source,
                jobs.c.input["evaluation"]["source"].as_string() == source,
                jobs.c.input["dataset"].as_string() == dataset_id,
            )
        )
        .limit(1)
    )
    if (job_id := connection.execute(query).scalar()) is not None:
        raise DatasetInUse(f"{dataset_id} is used by {job_id}; cancel that job or wait for it")
    connection.execute(
        update(_datasets).where(_datasets.c.id == dataset_id).values(deleted_at=now())
    )


def remove_text(store: ArtifactStore, dataset_id: str) -> None:
    """Delete the bytes of a dataset that has no row, or a deleted one."""
    store.delete_prefix(dataset_key(dataset_id).rpartition("/")[0])


def _visible(owner: str | None) -> tuple[ColumnElement[bool], ...]:
    visible = (_datasets.c.deleted_at.is_(None),)
    return visible if owner is None else (*visible, _datasets.c.owner == owner)


def _one(connection: Connection, dataset_id: str, owner: str | None, *, lock: bool) -> Dataset:
    query = select(_datasets).where(_datasets.c.id == dataset_id, *_visible(owner))
    if lock:
        query = query.with_for_update()  # SQLite ignores it: its transaction locks the file
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        raise DatasetNotFound(f"there is no dataset {dataset_id}")
    return _from_row(row)


def _from_row(row: RowMapping) -> Dataset:
    return Dataset(**{name: row[name] for name in Dataset.__dataclass_fields__})
