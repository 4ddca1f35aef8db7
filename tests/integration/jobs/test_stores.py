"""What every artifact store promises, on each of them."""

import hashlib
from pathlib import Path

import pytest

from jobs.artifacts import ArtifactStore, open_store
from jobs.artifacts.directory import CHUNK_BYTES
from jobs.errors import ObjectNotFound
from jobs.settings import Settings
from tests.columns import stored_keys

CONTENT = bytes(range(256)) * (CHUNK_BYTES // 256) + b"and a bit more"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


def test_what_was_put_comes_back(store: ArtifactStore, file: Path) -> None:
    stored = store.put_file("a/b/c.bin", file)
    assert stored.size_bytes == store.size("a/b/c.bin") == len(CONTENT)
    assert stored.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert b"".join(store.open_range("a/b/c.bin")) == CONTENT


def test_chunks_are_small(store: ArtifactStore, file: Path) -> None:
    store.put_file("key", file)
    assert max(len(chunk) for chunk in store.open_range("key")) <= CHUNK_BYTES


@pytest.mark.parametrize(
    ("start", "end"),
    [(0, 1), (5, 5), (3, CHUNK_BYTES + 3), (CHUNK_BYTES, None), (10, 10**12), (len(CONTENT), None)],
)
def test_ranges(store: ArtifactStore, file: Path, start: int, end: int | None) -> None:
    store.put_file("key", file)
    assert b"".join(store.open_range("key", start, end)) == CONTENT[start:end]


@pytest.mark.parametrize("end", [None, 0, 5])
def test_an_empty_object(store: ArtifactStore, file: Path, end: int | None) -> None:
    file.write_bytes(b"")
    stored = store.put_file("key", file)
    assert (stored.size_bytes, stored.sha256) == (0, hashlib.sha256(b"").hexdigest())
    assert (store.size("key"), b"".join(store.open_range("key", 0, end))) == (0, b"")


def test_a_put_replaces(store: ArtifactStore, file: Path) -> None:
    store.put_file("key", file)
    file.write_bytes(b"new")
    store.put_file("key", file)
    assert b"".join(store.open_range("key")) == b"new"


def test_a_reader_may_leave_in_the_middle(store: ArtifactStore, file: Path) -> None:
    store.put_file("key", file)
    for _ in range(100):  # more than there are connections
        chunks = store.open_range("key")
        next(chunks)
        chunks.close()  # type: ignore[attr-defined]
    assert list(chunks) == []


def test_what_is_not_there(store: ArtifactStore, file: Path) -> None:
    store.put_file("a/b", file)
    for key in ("nothing", "a"):  # a folder is no object
        with pytest.raises(ObjectNotFound):
            store.size(key)
        for start, end in ((0, None), (5, 5)):
            with pytest.raises(ObjectNotFound):
                store.open_range(key, start, end)  # at once, not at the first chunk
    with pytest.raises(ValueError, match="not a key"):
        store.open_range("../file")


def test_a_put_that_fails_leaves_nothing(store: ArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        store.put_file("a/b", tmp_path)
    assert stored_keys(store) == set()


def test_delete_prefix_takes_whole_names_only(store: ArtifactStore, file: Path) -> None:
    for key in ("j/1/files/x", "j/1/files/y/z", "j/10/files/x", "j/2"):
        store.put_file(key, file)
    store.delete_prefix("j/1")
    store.delete_prefix("j/1")
    assert stored_keys(store) == {"j/10/files/x", "j/2"}
    store.delete_prefix("j/2")  # an object is a prefix too
    assert stored_keys(store) == {"j/10/files/x"}


def test_check_leaves_nothing(store: ArtifactStore) -> None:
    store.check()
    store.check()
    assert stored_keys(store) == set()


@pytest.mark.parametrize(
    "url",
    [
        "ftp://somewhere",
        "s3://",
        "s3://bucket/../up",
        "s3://key:canary@bucket/x",
        "s3://b",
        "s3://bucket/a?region=x",
        "file://host/directory",
    ],
)
def test_an_address_that_no_store_knows(tmp_path: Path, url: str) -> None:
    with pytest.raises(ValueError, match="legal: file:///directory, s3://bucket/prefix"):
        open_store(Settings(data_dir=tmp_path, artifacts_url=url))
