"""Who takes part, and the cell that measures it.

A contender is written `METHOD` or `METHOD:RECIPE`. One that this version does not know, or that is
not installed, is left out with a note.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apiq_core.config import RECIPES, QuantizeConfig
from apiq_core.errors import UserError
from apiq_core.inspect import inspect_model
from apiq_core.resolve import resolve
from benchmarks.core.cells import ROOT, Cell
from benchmarks.core.texts import CALIBRATED, Text

AUTOROUND = "auto-round"
AUTOROUND_VERSION = "0.16.1"
AUTOROUND_ITERATIONS = 200  # its default
AUTOROUND_PYTHON = ROOT / ".venv-autoround" / "bin" / "python"

PAPER = "apiq-bw:paper"
FAST = "apiq-bw:fast"
BEST = "apiq-bw:best"
CLOSED_FORM = "apiq-lw:closed-form"
ALL = (
    "rtn",
    "gptq",
    "awq",
    "omniquant",
    "loftq",
    "qlora",
    "gptq-lora",
    CLOSED_FORM,
    "apiq-lw:paper",
    PAPER,
    FAST,
    BEST,
    AUTOROUND,
)
MAIN = ("rtn", "gptq", CLOSED_FORM, FAST, BEST, AUTOROUND)

GROUP_SIZE = 64
RANKS = (4, 8, 16, 64)  # where the adapter's rank varies
HELD_OUT = 8
LENGTH = 256  # of a calibration window
EVALUATION = {"samples": 16, "length": 512}


@dataclass(frozen=True)
class Setting:
    """What all contenders of one comparison share."""

    model_dir: Path
    calibrated: Text
    scored: tuple[Text, ...]
    samples: int

    @property
    def inputs(self) -> dict[str, Path]:
        scored = {f"scored.{text.name}": text.scored for text in self.scored}
        return {"model": self.model_dir, "calibrated": self.calibrated.calibrated} | scored


def taking_part(names: Iterable[str], only: Iterable[str]) -> list[str]:
    """Those of `names` that are there; with `only`, those that it names by method or in full."""
    wanted = set(only)
    chosen = [n for n in names if not wanted or n in wanted or n.partition(":")[0] in wanted]
    for name in chosen:
        if not _is_there(name):
            print(f"left out, not there: {name}")
    return [name for name in chosen if _is_there(name)]


def cell(
    name: str, setting: Setting, bits: int, rank: int | None = None, **training: float
) -> Cell | None:
    """The cell of a contender; None, with a note, where its method does not take the rank."""
    method, _, recipe = name.partition(":")
    if method == AUTOROUND:  # draws its tokens and counts its bits as this one does
        method, recipe, rank = "apiq-lw", "closed-form", 0
    fields: dict[str, Any] = {
        "bits": bits,
        "group_size": GROUP_SIZE,
        "method": method,
        "recipe": recipe or None,
        "rank": rank,
        "training": training,
        "calibration": {
            "source": CALIBRATED,
            "samples": setting.samples,
            "length": LENGTH,
            "held_out": HELD_OUT,
        },
    }
    try:
        config = resolve(QuantizeConfig.model_validate(fields), inspect_model(setting.model_dir))
    except UserError as error:
        print(f"left out: {name} at {bits} bits, rank {rank}: {error.message}")
        return None
    quantize = config.model_dump(mode="json", exclude={"evaluation"})
    content: Mapping[str, Any] = {"quantize": quantize, "evaluation": EVALUATION}
    if name != AUTOROUND:
        return Cell("quantized", content, setting.inputs)
    extra = {"iterations": AUTOROUND_ITERATIONS, "version": AUTOROUND_VERSION}
    return Cell("autoround", {**content, **extra}, setting.inputs)


def _is_there(name: str) -> bool:
    method, _, recipe = name.partition(":")
    if method == AUTOROUND:
        return AUTOROUND_PYTHON.exists()
    return any(
        method == known and (not recipe or recipe in recipes) for known, recipes in RECIPES.items()
    )
