"""A model quantized by one method, kept to be trained: its `model/` and its `adapter/`."""

import shutil
from pathlib import Path
from typing import Any

from apiq_core.config import QuantizeConfig
from apiq_core.quantize import quantize
from benchmarks.core.measure.quantized import UNSCORED
from benchmarks.core.texts import CALIBRATED
from benchmarks.report import RESULTS_DIR

STARTS_DIR = RESULTS_DIR / "starts"


def figures(config: dict[str, Any], inputs: dict[str, Path], work_dir: Path) -> dict[str, Any]:
    out_dir, kept = work_dir / "out", STARTS_DIR / work_dir.stem
    quantize_config = QuantizeConfig.model_validate(config["quantize"] | {"evaluation": UNSCORED})
    report = quantize(
        inputs["model"], out_dir, quantize_config, texts={CALIBRATED: inputs["calibrated"]}
    )
    shutil.rmtree(kept, ignore_errors=True)
    kept.parent.mkdir(parents=True, exist_ok=True)
    out_dir.rename(kept)
    return {
        "folder": str(kept),
        "rank": quantize_config.rank,
        "bits_per_weight": report.bits_per_weight.total,
        "seconds": report.seconds["quantizing"],
    }
