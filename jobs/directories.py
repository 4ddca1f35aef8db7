"""Directories of this host that are not deleted under who uses them.

Who uses one holds a shared lock on it, which ends with the process, however that ends; who deletes
it needs the lock alone.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def in_use(directory: Path) -> Iterator[Path]:
    """Make the directory if need be, and keep others from deleting it."""
    while True:
        directory.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # just deleted
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_SH)
            if _is(directory, handle):
                yield directory
                return
        finally:
            os.close(handle)


def deleted(directory: Path) -> bool:
    """Delete it, unless somebody uses it: false."""
    try:
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(directory, ignore_errors=True)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True


def _is(directory: Path, handle: int) -> bool:
    """Whether the name still stands for what was opened."""
    try:
        return os.path.samestat(directory.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False
