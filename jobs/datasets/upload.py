"""A dataset on its way in: checked while it arrives, in a folder of its own until it is stored."""

import hashlib
import shutil
import tempfile
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import uuid_utils

from apiq_core.errors import UserError
from jobs.artifacts import ArtifactStore
from jobs.datasets import ABANDONED_AFTER_S, Dataset
from jobs.datasets.contents import CONTENTS, Content
from jobs.datasets.files import dataset_key
from jobs.settings import Settings


class DatasetTooLarge(UserError):
    """The upload is larger than the server takes."""

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            "dataset_too_large",
            f"the dataset has {size_bytes} bytes or more; legal: at most {limit_bytes} bytes",
            value=size_bytes,
            legal={"at_most": limit_bytes},
        )


def prune_uploads(settings: Settings) -> None:
    """Remove what uploads left behind whose process was killed."""
    oldest = time.time() - ABANDONED_AFTER_S
    for folder in _uploads(settings).glob("*"):
        with suppress(FileNotFoundError):  # it has just been finished
            if folder.stat().st_mtime < oldest:
                shutil.rmtree(folder, ignore_errors=True)


def _uploads(settings: Settings) -> Path:
    return settings.data_dir / "uploads"


class Upload:
    """A dataset on its way in: `begin` it, `write` chunks, `finish`, `put` it into a store.

    Lies in a temporary folder until then, which is removed whatever happens.
    """

    def __init__(self, settings: Settings, limit_bytes: int) -> None:
        _uploads(settings).mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(dir=_uploads(settings)))
        self._file = (self._folder / "data").open("wb")
        self._limit_bytes = limit_bytes
        self._content: Content | None = None
        self._digest = hashlib.sha256()
        self._size_bytes = 0

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

    @property
    def folder(self) -> Path:
        """Where it lies meanwhile."""
        return self._folder

    def begin(self, kind: str) -> None:
        """What will arrive: a kind of `jobs.datasets.contents`."""
        self._content = CONTENTS[kind]()

    def expect(self, size_bytes: int) -> None:
        """Refuse what says beforehand that it is too large."""
        if size_bytes > self._limit_bytes:
            raise DatasetTooLarge(size_bytes, self._limit_bytes)

    def write(self, chunk: bytes) -> None:
        """Check and keep a chunk; a character or a line may lie across two."""
        assert self._content is not None
        self.expect(self._size_bytes + len(chunk))
        self._content.write(chunk)
        self._file.write(chunk)
        self._digest.update(chunk)
        self._size_bytes += len(chunk)

    def finish(
        self, name: str | None, owner: str = "", origin: dict[str, Any] | None = None
    ) -> Dataset:
        """The last chunk was written; refuse what breaks off, says nothing or has bad rows."""
        assert self._content is not None
        self._content.finish()
        self._file.close()
        return Dataset(
            id=f"ds_{uuid_utils.uuid7()}",
            owner=owner,
            name=name,
            kind=self._content.kind,
            size_bytes=self._size_bytes,
            characters=self._content.characters,
            rows=self._content.rows,
            duplicates=self._content.duplicates,
            longest_row_characters=self._content.longest_row_characters,
            chats=self._content.chats,
            origin=origin,
            sha256=self._digest.hexdigest(),
            created_at=datetime.now(UTC).replace(microsecond=0),  # rows keep milliseconds
        )

    def put(self, store: ArtifactStore, dataset: Dataset) -> None:
        """Move it into the store, between `reserve` and `confirm`."""
        store.put_file(dataset_key(dataset.id, dataset.kind), Path(self._file.name))
