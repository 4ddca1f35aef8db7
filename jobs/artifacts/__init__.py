"""Where files live that outlast a process: one protocol, a store per kind of place.

datasets/{id}/data.txt                      an uploaded text
datasets/{id}/data.jsonl                    uploaded rows
jobs/{id}/attempts/{n}/files/{path}         what attempt n made; visible once it is published
jobs/{id}/attempts/{n}/blocks/{NNNNN}.safetensors
                                            a block it finished; until the job ends
jobs/{id}/attempts/{n}/child.log            what its process printed, redacted
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from jobs.addresses import KEY
from jobs.settings import Settings

MANIFEST = "manifest.json"  # of what a job published; names the sha256 of every other file


@dataclass(frozen=True)
class Stored:
    """An object as it was written: the digest is of the very bytes that were stored."""

    size_bytes: int
    sha256: str


class ArtifactStore(Protocol):
    """Objects by key. Writing an object is atomic: it is there whole or not at all.

    What the place itself refuses - a full disk, a server that is away - is an `OSError`.
    """

    def put_file(self, key: str, path: Path) -> Stored:
        """Store a file's bytes under `key`, replacing what was there."""

    def open_range(self, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` up to but without `end`, in chunks.

        Raises `ObjectNotFound` before the first chunk.
        """

    def size(self, key: str) -> int:
        """Size in bytes; raises `ObjectNotFound`."""

    def delete_prefix(self, prefix: str) -> None:
        """Delete `prefix` and everything under `prefix/`; nothing there is no error."""

    def presigned_url(self, key: str) -> str | None:
        """A URL that anyone can fetch the object from for a while, if the store has such."""

    def prune(self) -> None:
        """Remove what writers left behind that were killed. Cheap; for every sweep."""

    def check(self) -> None:
        """Raise an `OSError` unless the store takes writes."""


def check_key(key: str) -> str:
    """`key`, if it names something inside a store; raises `ValueError` before it can leave it."""
    if KEY.fullmatch(key) is None or any(part.endswith(".tmp") for part in key.split("/")):
        raise ValueError(f"not a key of an artifact store: {key!r}")
    return key


def job_prefix(job_id: str) -> str:
    """Under which everything lies that a job ever stored."""
    return f"jobs/{job_id}"


def files_prefix(job_id: str, attempt: int) -> str:
    """Under which an attempt puts the files it wants to publish."""
    return f"jobs/{job_id}/attempts/{attempt}/files"


def blocks_prefix(job_id: str, attempt: int) -> str:
    """Under which an attempt puts the blocks it finished."""
    return f"jobs/{job_id}/attempts/{attempt}/blocks"


def block_key(job_id: str, attempt: int, block: int) -> str:
    """Where an attempt puts one block."""
    return f"{blocks_prefix(job_id, attempt)}/{block:05d}.safetensors"


def log_key(job_id: str, attempt: int) -> str:
    """Where the output of an attempt's process is."""
    return f"jobs/{job_id}/attempts/{attempt}/child.log"


def open_store(settings: Settings) -> ArtifactStore:
    """The store that `artifacts_url` names; connects when it is first used."""
    url = urlsplit(settings.artifacts_url)
    if url.scheme == "file":
        from jobs.artifacts.directory import DirectoryStore

        return DirectoryStore(Path(unquote(url.path)))
    from jobs.artifacts.s3 import S3Store  # boto3: not for who keeps files in a directory

    prefix = unquote(url.path).strip("/")
    return S3Store(url.netloc, prefix, settings.s3_public_url or None)
