"""What a finished block depends on: only a run with the same identity may take it over.

The evaluation is not part of it: it comes after the blocks, and what it takes away from the
calibration text shows in the windows.
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from apiq_core import __version__
from apiq_core.calibration import Windows
from apiq_core.config import QuantizeConfig
from apiq_core.inspect import weight_files
from apiq_core.skeleton import Skeleton

Identity = dict[str, str | int | float | None]  # field, in dotted form -> value


def identify(
    model_dir: Path, windows: Windows, config: QuantizeConfig, skeleton: Skeleton
) -> Identity:
    """The identity of a run; `config` is resolved."""
    files = [model_dir / "config.json", *weight_files(model_dir)]
    return (
        {f"model.{file.name}": file_sha256(file) for file in files}
        | {
            "windows.train": _tokens_sha256(windows.train),
            "windows.held_out": _tokens_sha256(windows.held_out),
        }
        | dict(_flat("config", config.model_dump(mode="json", exclude={"evaluation"})))
        | {
            "versions.apiq_core": __version__,
            "versions.torch": torch.__version__,
            "versions.transformers": transformers.__version__,
            "device": skeleton.device.type,
            "compute_dtype": str(skeleton.dtype),
            "matmul_dtype": str(skeleton.matmul_dtype),
        }
        | cpu(skeleton.device)
    )


def differing(one: Mapping[str, object], other: Mapping[str, object]) -> list[str]:
    """The names of the fields in which two identities differ."""
    nothing = object()
    names = sorted(one.keys() | other.keys())
    return [name for name in names if one.get(name, nothing) != other.get(name, nothing)]


def cpu(device: torch.device) -> Identity:
    """Of a CPU: sums are split among its threads and across its vector width, and each split
    rounds in its own way. Between 1 and 2 threads every block of `fast` differed."""
    if device.type != "cpu":
        return {}
    return {
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _tokens_sha256(windows: Tensor) -> str:
    digest = hashlib.sha256(repr(tuple(windows.shape)).encode())
    digest.update(windows.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Leaves by dotted name; lists count as one value."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}", inner)
    else:
        yield name, ",".join(value) if isinstance(value, list) else value
