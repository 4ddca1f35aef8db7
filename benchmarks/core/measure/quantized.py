"""One model quantized by one method of this project, read back and judged."""

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import PreTrainedModel

from apiq_core.config import QuantizeConfig
from apiq_core.inspect import inspect_model
from apiq_core.quantize import quantize
from benchmarks.core.measure import dense
from benchmarks.core.measure.histogram import histogram
from benchmarks.core.measure.sizes import bits_per_parameter
from benchmarks.core.texts import CALIBRATED

UNSCORED = {"samples": 0}  # the run itself scores nothing: `dense` does, the same for all


def figures(config: dict[str, Any], inputs: dict[str, Path], work_dir: Path) -> dict[str, Any]:
    quantize_config = QuantizeConfig.model_validate(config["quantize"] | {"evaluation": UNSCORED})
    out_dir = work_dir / "out"
    texts = {CALIBRATED: inputs["calibrated"]}
    report = quantize(inputs["model"], out_dir, quantize_config, texts=texts)
    model = dense.load(out_dir / "model", out_dir / "adapter")
    file_bits = 8 * file_bytes(out_dir) / report.parameter_count
    if report.config.formats == ["dense"]:  # its files hold no codes
        facts = inspect_model(inputs["model"])
        file_bits = bits_per_parameter(report.bits_per_weight.total, facts)
    return {
        "bits_per_weight": report.bits_per_weight.model_dump(),
        "file_bits_per_parameter": file_bits,
        "peak_memory_bytes": report.peak_memory_bytes,
        "seconds": report.seconds["quantizing"],
        "blocks": [block.model_dump(exclude={"train_loss"}) for block in report.blocks],
        "histograms": histograms(out_dir),
        **dense.judge(model, quantize_config, inputs, config["evaluation"]),
    }


def file_bytes(out_dir: Path) -> int:
    """Of all tensors as they are stored, embeddings and adapter included."""
    return sum(file.stat().st_size for file in out_dir.glob("*/*.safetensors"))


def histograms(out_dir: Path) -> dict[str, dict[str, Any]]:
    """Of Q, A and B of every linear layer of the middle block."""
    model: PreTrainedModel = dense.load(out_dir / "model")
    index = len(model.model.layers) // 2
    block = model.model.layers[index]
    found = {
        name: {"Q": histogram(module.weight.detach())}
        for name, module in block.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    file = out_dir / "adapter" / "adapter_model.safetensors"
    if file.exists():
        with safe_open(file, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118
                _, inside, rest = key.partition(f".layers.{index}.")
                name, _, factor = rest.removesuffix(".weight").rpartition(".lora_")
                if inside and factor in ("A", "B"):
                    found[name][factor] = histogram(tensors.get_tensor(key))
    return found
