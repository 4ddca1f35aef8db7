"""Named points in the life of a job where a process waits for its fate.

A test makes the file `<point>.armed` in the directory that `FAULT_POINTS` names. The first
process that gets there makes it `<point>.held.<pid>` and waits until that file is gone.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

DIRECTORY = "FAULT_POINTS"
PHASES = ("downloading", "calibrating", "quantizing", "evaluating", "packaging")
IN_CHILD = ("claimed", *PHASES)  # before its first word; in each phase
IN_WORKER = ("uploading", "uploaded")  # some files are stored; all are, and nothing is published
IN_API = "accepted"  # committed, and no doorbell was rung
CANCELLING = "cancelling"  # the child is deaf, so it takes as long as the grace
MADE = "made"  # everything is made, and the child has not said so
POLL_S = 0.02


def reach(point: str, give_up: Callable[[], bool] = lambda: False) -> None:
    """Wait here if a test wants it; `give_up` ends that."""
    directory = Path(os.environ[DIRECTORY])
    held = directory / f"{point}.held.{os.getpid()}"
    try:
        (directory / f"{point}.armed").rename(held)
    except FileNotFoundError:
        return
    while held.exists() and not give_up():
        time.sleep(POLL_S)


def arm(directory: Path, point: str) -> None:
    (directory / f"{point}.armed").touch()


def holder(directory: Path, point: str) -> int | None:
    """The id of the process that waits there."""
    found = list(directory.glob(f"{point}.held.*"))
    return int(found[0].suffix[1:]) if found else None


def release(directory: Path, pid: int) -> None:
    """This process waits no more."""
    for file in directory.glob(f"*.held.{pid}"):
        file.unlink()


def let_go(directory: Path) -> None:
    """Nobody waits any more, and nobody will."""
    for file in directory.iterdir():
        file.unlink(missing_ok=True)
