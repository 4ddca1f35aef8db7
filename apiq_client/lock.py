"""One service a data directory: a file lock that the kernel drops with its holder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from apiq_client.errors import ApiqError


@contextmanager
def hold(data_dir: Path) -> Iterator[TextIO]:
    """Hold the directory, or raise `ApiqError(already_running)` saying who does."""
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / "up.lock").open("a+") as file:  # closed on exec: the parts never hold it
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise ApiqError(
                "already_running",
                f"{data_dir} is in use by {holder}; stop that one, or give another --data-dir",
            ) from None
        describe(file, f"pid {os.getpid()}")
        yield file
        file.truncate(0)


def describe(file: TextIO, holder: str) -> None:
    """Write down who holds the lock, for the one who will be refused."""
    file.truncate(0)
    file.write(holder)
    file.flush()
