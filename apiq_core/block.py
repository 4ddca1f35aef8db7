"""One block at work, and what it becomes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from apiq_core.adapters import Adapter, to_dtype
from apiq_core.config import LayerSpec
from apiq_core.quantizer import QuantizedWeight
from apiq_core.skeleton import Weights, run_block
from apiq_core.stored_weight import StoredWeight
from apiq_core.stream import Stream


@dataclass
class Block:
    """One block: its module on meta, its own weights, its captured arguments, its activations."""

    index: int
    module: nn.Module
    teacher: Weights
    call: dict[str, Any]
    input_groups: list[list[str]]  # linear layers by shared input, in the order of their calls
    stream: Stream
    specs: Mapping[str, LayerSpec]  # how each linear layer is to be stored, by layer name

    def linear_weight(self, name: str) -> Tensor:
        """That of the linear layer `name` (O, I), in fp32."""
        return self.teacher[f"{name}.weight"].float()

    @property
    def linear_weights(self) -> dict[str, Tensor]:
        """Those that are quantized, by layer name; a copy where the block is not in fp32."""
        return {name: self.linear_weight(name) for group in self.input_groups for name in group}

    def has_bias(self, name: str) -> bool:
        """Whether the linear layer `name` has one."""
        return f"{name}.bias" in self.teacher

    def run(self, weights: Weights, hidden: Tensor) -> Tensor:
        return run_block(self.module, weights, hidden, self.call)


@dataclass
class QuantizedLayer:
    """What is stored of one linear layer."""

    weight: StoredWeight
    adapter: Adapter

    @property
    def integers(self) -> QuantizedWeight:
        """The weight, which must be one that is packed."""
        assert isinstance(self.weight, QuantizedWeight)
        return self.weight

    def merged(self, dtype: torch.dtype) -> Tensor:
        """The effective weight (O, I) of the artifact's values, computed in fp32, in `dtype`."""
        q = self.weight.dequantize()
        return to_dtype(self.adapter, torch.float32).apply(q).to(dtype)


Layers = dict[str, QuantizedLayer]


@dataclass
class BlockResult:
    """The quantized layers by name, and how the gradient phase went."""

    layers: Layers
    # an equivalent block of other full-precision weights that `layers` are the quantization of
    rescaled: Weights | None = None
    train_loss: list[float] = field(default_factory=list)  # per epoch
    held_out_loss: list[float] = field(default_factory=list)  # before training, then per epoch
    held_out_error: list[float] = field(default_factory=list)  # as often; one measure for all
    held_out_at_s: list[float] = field(default_factory=list)  # as often; time.monotonic()
    warning: str | None = None


def replace_weights(teacher: Weights, replacements: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The teacher's weights with those of some layers (by layer name) put in their place."""
    return dict(teacher) | {f"{name}.weight": weight for name, weight in replacements.items()}


def student_weights(teacher: Weights, layers: Layers) -> dict[str, Tensor]:
    """The block's weights as the artifact will give them; the teacher gives what no layer does."""
    dtype = next(iter(teacher.values())).dtype
    return replace_weights(teacher, {name: layer.merged(dtype) for name, layer in layers.items()})
