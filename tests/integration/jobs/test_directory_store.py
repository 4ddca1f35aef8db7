"""What is true of the directory store only."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.artifacts.directory import UNFINISHED, DirectoryStore
from tests.columns import stored_keys


def test_no_half_written_file_stays(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store")
    with pytest.raises(IsADirectoryError):
        store.put_file("a/b", tmp_path)
    assert [path for path in store.root.rglob("*") if path.is_file()] == []


def test_check_tells_that_the_place_is_none(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("a file, not a directory")
    with pytest.raises(OSError, match="plain"):
        DirectoryStore(tmp_path / "plain").check()


def test_what_a_killed_writer_leaves_is_no_object_and_goes(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store")
    slow = tmp_path / "slow"
    os.mkfifo(slow)
    code = (
        "import sys; from pathlib import Path; from jobs.artifacts.directory import DirectoryStore;"
        f"DirectoryStore(Path({str(store.root)!r})).put_file('a/b', Path({str(slow)!r}))"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as writer:
        source = slow.open("wb", buffering=0)  # opens when the writer reads
        source.write(b"x")
        while not list((store.root / UNFINISHED).glob("*")):
            assert writer.poll() is None
        writer.kill()
        writer.wait()
        source.close()
    assert stored_keys(store) == set()
    store.prune()
    assert len(list((store.root / UNFINISHED).iterdir())) == 1  # it could be a slow one
    store.prune(older_than_s=0)
    assert [path for path in store.root.rglob("*") if path.is_file()] == []
