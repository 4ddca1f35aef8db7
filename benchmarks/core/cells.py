"""A cell is measured once: its figures are kept under a hash of all that they depend on.

That is its measure, its config, what is in its input files, the code that computes, and the
versions and threads that decide how sums are rounded. A cell that is there is never computed again;
one that is not is computed in a process of its own, so that its peak memory is its own too.
"""

import ast
import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.report import RESULTS_DIR, machine

CELLS_DIR = RESULTS_DIR / "cells"
ROOT = Path(__file__).resolve().parents[2]
COMPUTES = (ROOT / "apiq_core", ROOT / "benchmarks" / "core" / "measure")
FINETUNES = "finetune."  # how the measures begin that also compute with what lies in `finetune`
CONFIGS = ("adapter_config.json", "config.json")
Figures = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    measure: str  # a module of benchmarks.core.measure
    config: Mapping[str, Any]  # JSON
    inputs: Mapping[str, Path] = field(default_factory=dict)  # files or checkpoint folders

    @property
    def key(self) -> str:
        identity = {
            "measure": self.measure,
            "config": self.config,
            "inputs": {name: content_sha256(path) for name, path in self.inputs.items()},
            "code": code_sha256(sources(self.measure)),
            "versions": {name: version(name) for name in ("torch", "transformers")},
            "threads": threads(),
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Cells:
    folder: Path = CELLS_DIR
    minutes: float | None = None  # no cell is begun after so many
    began: float = field(default_factory=time.monotonic)

    def figures(self, cell: Cell, title: str) -> Figures | None:
        """From the disk, or measured now; None if time is up or the measure failed."""
        key = cell.key
        path = self.folder / f"{cell.measure}-{key}.json"
        known = read(path)
        if known is not None:
            return known
        if self.minutes is not None and time.monotonic() - self.began > 60 * self.minutes:
            print(f"not begun, time is up: {title}")
            return None
        print(f"measuring: {title}", flush=True)
        try:
            figures = compute(cell, path.with_suffix(".work"))
        except subprocess.CalledProcessError as error:
            print(f"failed with exit code {error.returncode}: {title}")
            return None
        if cell.key != key:
            print(f"not kept, the sources changed meanwhile: {title}")
            return None
        content = {"title": title, "config": cell.config, "machine": machine(), "figures": figures}
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(content, indent=1) + "\n")
        temporary.replace(path)
        return figures


def read(path: Path) -> Figures | None:
    """The figures of a cell's file; None if it is not there or not whole."""
    try:
        figures: Figures = json.loads(path.read_text())["figures"]
        return figures
    except (FileNotFoundError, ValueError, KeyError):
        return None


def compute(cell: Cell, work_dir: Path) -> Figures:
    """Measure in a fresh process. What is left in `work_dir` by a stopped run is gone on with."""
    work_dir.mkdir(parents=True, exist_ok=True)
    request = {"config": cell.config, "inputs": {k: str(p) for k, p in cell.inputs.items()}}
    (work_dir / "request.json").write_text(json.dumps(request))
    command = [sys.executable, "-m", "benchmarks.core.measure", cell.measure, str(work_dir)]
    subprocess.run(command, check=True, env=os.environ | environment())
    figures: Figures = json.loads((work_dir / "figures.json").read_text())
    shutil.rmtree(work_dir)
    return figures


def environment() -> dict[str, str]:
    """As `make` sets it: one thread a core, and none that spins while it waits."""
    return {
        "OMP_NUM_THREADS": str(threads()),
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "PYTHONWARNINGS": "ignore::FutureWarning",
    }


def threads() -> int:
    return int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)


@functools.cache
def content_sha256(path: Path) -> str:
    """Of a file, or of the config and weights in the folder of a checkpoint or an adapter."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    configs = [path / name for name in CONFIGS if (path / name).is_file()]
    files = sorted([*configs, *path.glob("*.safetensors")])
    return hashlib.sha256("".join(map(content_sha256, files)).encode()).hexdigest()


def sources(measure: str) -> list[Path]:
    """The files that a measure computes with. Quantizing knows nothing of finetuning."""
    return sorted(
        file
        for folder in COMPUTES
        for file in folder.rglob("*.py")
        if measure.startswith(FINETUNES) or "finetune" not in file.relative_to(folder).parts
    )


def code_sha256(files: Iterable[Path]) -> str:
    """Of what the sources say; comments and layout are no part of it."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + ast.dump(ast.parse(file.read_text())).encode())
    return digest.hexdigest()
