"""What a checkpoint of a training run depends on: only a run with the same may go on from it."""

from pathlib import Path

import peft
import torch
import transformers

from apiq_core import __version__
from apiq_core.device import matmul_dtype
from apiq_core.finetune import processes
from apiq_core.finetune.base import Base
from apiq_core.finetune.config import FinetuneConfig
from apiq_core.identity import Identity, cpu, file_sha256
from apiq_core.inspect import COMPANIONS, weight_files


def identify(
    base: Base,
    dataset: Path,
    validation: Path | None,
    config: FinetuneConfig,
    device: torch.device,
) -> Identity:
    """The identity of a run."""
    files = {f"model.{file.name}": file for file in weight_files(base.model_dir)}
    parts = ("config.json", *COMPANIONS)  # a tokenizer or its template makes other tokens
    files |= {f"model.{name}": base.model_dir / name for name in parts}
    if base.adapter_dir is not None:
        files |= {f"adapter.{file.name}": file for file in base.adapter_dir.glob("adapter_*")}
    files["dataset"] = dataset
    if validation is not None:
        files["validation"] = validation
    return (
        {name: file_sha256(file) for name, file in sorted(files.items()) if file.is_file()}
        | {f"config.{name}": value for name, value in config.model_dump(mode="json").items()}
        | {
            "bits": base.bits,
            "group_size": base.group_size,
            "versions.apiq_core": __version__,
            "versions.torch": torch.__version__,
            "versions.transformers": transformers.__version__,
            "versions.peft": peft.__version__,
            "device": device.type,
            "matmul_dtype": str(matmul_dtype(device)),
        }
        | cpu(device)
        | _processes()
    )


def _processes() -> Identity:
    """Several processes sum in another order than one does."""
    return {"processes": processes.count()} if processes.count() > 1 else {}
