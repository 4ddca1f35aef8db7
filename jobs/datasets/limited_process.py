"""A Python process that reads what a stranger wrote: few at a time, and no secrets with it.

How much it may use it says itself, by `apiq_core.process_limits`.
"""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from apiq_core.errors import InfraError

AT_ONCE = 2  # each takes a core
PATIENCE_S = 30.0  # with those before it
KEPT = ("PATH", "PYTHONPATH", "HOME", "LD_LIBRARY_PATH")  # of the environment
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}

_turns = threading.BoundedSemaphore(AT_ONCE)


@contextmanager
def turn() -> Iterator[None]:
    """While one may run. Raises `InfraError(not_ready)` if others take up the machine."""
    if not _turns.acquire(timeout=PATIENCE_S):
        raise InfraError("not_ready", "other previews and downloads take up what there is for them")
    try:
        yield
    finally:
        _turns.release()


def command(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def environment() -> dict[str, str]:
    return ENVIRONMENT | {name: os.environ[name] for name in KEPT if name in os.environ}


def last_words(stderr: bytes) -> str:
    """Of a process that failed."""
    return " ".join(stderr.decode(errors="replace").strip().splitlines()[-1:])[:300]
