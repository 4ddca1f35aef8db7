"""AutoRound (arXiv 2309.05516) on the same tokens, in its own environment, judged by our code."""

import json
import subprocess
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from apiq_core.budget.plan import bits_per_weight, uniform_plan
from apiq_core.config import QuantizeConfig
from apiq_core.inspect import inspect_model
from benchmarks.core.contenders import AUTOROUND_PYTHON
from benchmarks.core.measure import dense
from benchmarks.core.measure.sizes import bits_per_parameter

SCRIPT = Path(__file__).with_name("autoround_child.py")


def figures(config: dict[str, Any], inputs: dict[str, Path], work_dir: Path) -> dict[str, Any]:
    quantize_config = QuantizeConfig.model_validate(config["quantize"])
    drawn = dense.windows(
        inputs["model"], quantize_config, inputs["calibrated"], None, {"samples": 0}
    )
    save_file({"tokens": drawn.train.contiguous()}, work_dir / "tokens.safetensors")
    command = [str(AUTOROUND_PYTHON), str(SCRIPT), str(inputs["model"]), str(work_dir)]
    command += [str(config["quantize"]["bits"]), str(config["quantize"]["group_size"])]
    command += [str(config["iterations"])]
    with (work_dir / "autoround.log").open("w") as log:
        subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT)
    model = dense.load(work_dir / "dense")
    facts = inspect_model(inputs["model"])
    # in its packed format, which stores what ours stores without adapter
    bits = bits_per_weight(uniform_plan(quantize_config, facts), facts)
    return {
        "bits_per_weight": {"weights": bits, "adapter": 0.0, "total": bits},
        "file_bits_per_parameter": bits_per_parameter(bits, facts),
        **json.loads((work_dir / "autoround.json").read_text()),
        **dense.judge(model, quantize_config, inputs, config["evaluation"]),
    }
