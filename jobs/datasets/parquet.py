"""Rows of a parquet file, read in a process of its own: its pages may unpack to anything."""

import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO

from jobs.datasets.limited_process import command, environment, last_words

CHUNK_BYTES = 2**20


class UnreadableParquet(ValueError):
    """Why a file cannot be read."""


def lines(path: Path) -> Iterator[bytes]:
    """Chunks of JSON lines, one a row. Raises `UnreadableParquet`."""
    said = path.with_suffix(".stderr")
    with said.open("wb") as stderr:
        process = subprocess.Popen(
            command("jobs.datasets.parquet_process", str(path)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=environment(),
        )
        try:
            yield from _chunks(process.stdout)
            process.wait()  # it says itself how it ended
        finally:  # whoever asked may have had enough
            process.kill()
            process.communicate()
    if process.returncode:
        raise UnreadableParquet(last_words(said.read_bytes()) or f"code {process.returncode}")


def _chunks(file: IO[bytes] | None) -> Iterator[bytes]:
    assert file is not None
    return iter(partial(file.read, CHUNK_BYTES), b"")
