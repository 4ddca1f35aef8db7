"""An adapter merged into the full-precision weights, which are then rounded to nearest."""

from pathlib import Path
from typing import Any

from apiq_core.config import QuantizeConfig
from apiq_core.finetune.config import FinetuneConfig
from apiq_core.finetune.finetune import finetune
from apiq_core.inspect import COMPANIONS
from apiq_core.quantize import quantize
from benchmarks.core.measure import dense
from benchmarks.core.measure.quantized import UNSCORED


def figures(config: dict[str, Any], inputs: dict[str, Path], work_dir: Path) -> dict[str, Any]:
    """`loss`: on the rows that the training of `config` held out, by the code that scored it."""
    merged_dir, out_dir = work_dir / "merged", work_dir / "out"
    dense.load(inputs["base"], inputs["adapter"]).save_pretrained(merged_dir)
    for name in COMPANIONS:
        if (inputs["base"] / name).is_file():
            (merged_dir / name).write_bytes((inputs["base"] / name).read_bytes())
    rounded = QuantizeConfig.model_validate(
        config["grid"] | {"method": "rtn"} | {"evaluation": UNSCORED}
    )
    report = quantize(merged_dir, out_dir, rounded)
    # a new adapter changes nothing before the first step
    settings = FinetuneConfig.model_validate(config["finetune"] | {"max_steps": 1})
    scored = finetune(out_dir / "model", None, inputs["rows"], work_dir / "scored", settings)
    return {
        "loss": scored.points[0].validation_loss,
        "bits_per_weight": report.bits_per_weight.total,
    }
