"""One start trained on rows, scored on rows that it was not trained on."""

from pathlib import Path
from typing import Any

from apiq_core.finetune.config import FinetuneConfig
from apiq_core.finetune.finetune import finetune


def figures(config: dict[str, Any], inputs: dict[str, Path], work_dir: Path) -> dict[str, Any]:
    report = finetune(
        inputs["base"],
        inputs.get("adapter"),
        inputs["rows"],
        work_dir / "out",
        FinetuneConfig.model_validate(config["finetune"]),
    )
    return {
        "points": [point.model_dump() for point in report.points],
        "after": report.validation_loss.after,
        "trained_parameters": report.trained_parameters,
        "rows": report.rows,
        "tokens": report.tokens,
        "seconds": report.seconds["training"],
        "peak_memory_bytes": report.peak_memory_bytes["training"],
    }
