"""One start trained on rows, scored on rows that it was not trained on; its adapter is kept."""

import shutil
from pathlib import Path
from typing import Any

from apiq_core.finetune.config import FinetuneConfig
from apiq_core.finetune.finetune import finetune
from benchmarks.report import RESULTS_DIR

TRAINED_DIR = RESULTS_DIR / "trained"


def figures(config: dict[str, Any], inputs: dict[str, Path], work_dir: Path) -> dict[str, Any]:
    out_dir, kept = work_dir / "out", TRAINED_DIR / work_dir.stem
    report = finetune(
        inputs["base"],
        inputs.get("adapter"),
        inputs["rows"],
        out_dir,
        FinetuneConfig.model_validate(config["finetune"]),
        **config.get("grid", {}),
    )
    shutil.rmtree(kept, ignore_errors=True)
    kept.parent.mkdir(parents=True, exist_ok=True)
    out_dir.rename(kept)
    return {
        "folder": str(kept),
        "points": [point.model_dump() for point in report.points],
        "after": report.validation_loss.after,
        "trained_parameters": report.trained_parameters,
        "rows": report.rows,
        "tokens": report.tokens,
        "seconds": report.seconds["training"],
        "peak_memory_bytes": report.peak_memory_bytes["training"],
    }
