"""Objects as files under one directory: the embedded store."""

import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import uuid_utils

from jobs.artifacts import Stored, check_key
from jobs.errors import ObjectNotFound

CHUNK_BYTES = 1024 * 1024
UNFINISHED = "unfinished.tmp"  # a folder; no key has such a part
ABANDONED_AFTER_S = 3600.0  # since the last byte was written


class DirectoryStore:
    """An `ArtifactStore` in a local directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put_file(self, key: str, path: Path) -> Stored:
        target = self._path(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._temporary()
        digest = hashlib.sha256()
        size_bytes = 0
        try:
            with path.open("rb") as source, temporary.open("wb") as sink:
                while chunk := source.read(CHUNK_BYTES):
                    digest.update(chunk)
                    sink.write(chunk)
                    size_bytes += len(chunk)
                sink.flush()
                os.fsync(sink.fileno())
            temporary.replace(target)
            _sync_directory(target.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return Stored(size_bytes, digest.hexdigest())

    def open_range(self, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        try:
            file = self._path(key).open("rb")
        except (FileNotFoundError, IsADirectoryError):
            raise _not_found(key) from None

        def chunks() -> Iterator[bytes]:
            with file:
                file.seek(start)
                left = None if end is None else end - start
                while left is None or left > 0:
                    chunk = file.read(CHUNK_BYTES if left is None else min(left, CHUNK_BYTES))
                    if not chunk:
                        return
                    if left is not None:
                        left -= len(chunk)
                    yield chunk

        return chunks()

    def size(self, key: str) -> int:
        path = self._path(key)
        if not path.is_file():
            raise _not_found(key)
        return path.stat().st_size

    def delete_prefix(self, prefix: str) -> None:
        path = self._path(prefix)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def presigned_url(self, key: str) -> str | None:
        return None

    def check(self) -> None:
        probe = self._temporary()
        probe.write_bytes(b"")
        probe.unlink()

    def prune(self, older_than_s: float = ABANDONED_AFTER_S) -> None:
        # all in one folder, so that finding them is one short listing
        oldest = time.time() - older_than_s
        for file in (self.root / UNFINISHED).glob("*"):
            with suppress(FileNotFoundError):  # it was finished just now
                if file.stat().st_mtime <= oldest:
                    file.unlink()

    def _temporary(self) -> Path:
        folder = self.root / UNFINISHED
        folder.mkdir(parents=True, exist_ok=True)
        return folder / str(uuid_utils.uuid4())

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)


def _sync_directory(directory: Path) -> None:
    """Make a rename durable."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _not_found(key: str) -> ObjectNotFound:
    return ObjectNotFound(f"the artifact store has no {key}")
