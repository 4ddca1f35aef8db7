"""One round: every contender after the other, each in its own process, in one run."""

import shutil
from pathlib import Path
from typing import Any

from benchmarks.core.cells import Cell, compute


def figures(config: dict[str, Any], inputs: dict[str, Path], work_dir: Path) -> dict[str, Any]:
    found = {}
    for number, contender in enumerate(config["contenders"]):
        own_dir = work_dir / str(number)
        shutil.rmtree(own_dir, ignore_errors=True)  # of a stopped run: its times are not these
        cell = Cell(contender["measure"], contender["config"], inputs)
        found[contender["name"]] = compute(cell, own_dir)
    return found
