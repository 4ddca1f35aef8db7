"""The adapters by name: what is stored beside a quantized weight, and how PEFT reads it.

An adapter is a small value of tensors around one layer's dequantized weight Q (O, I). The same
value is stored and, with tensors that require gradients, trained.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor

from apiq_core.adapters.dora import Dora
from apiq_core.adapters.ia3 import Ia3
from apiq_core.adapters.lora import LowRank
from apiq_core.config import AdapterName

PEFT_PREFIX = "base_model.model."  # of every name in an adapter's file


class Adapter(Protocol):
    SUFFIXES: ClassVar[tuple[str, ...]]  # of its tensors' names, after the layer's name

    @classmethod
    def start(cls, q: Tensor, low_rank: LowRank, *, name: str, has_bias: bool) -> Self:
        """For a layer that was to be Q + B A; `name` is the layer's inside its block."""

    @classmethod
    def read(cls, tensors: Mapping[str, Tensor]) -> Self:
        """From `tensors()`."""

    @staticmethod
    def peft_config(tensors: Mapping[str, Tensor], layer_count: int) -> dict[str, Any]:
        """adapter_config.json for all that is stored, by name inside the model.

        `layer_count` linear layers there are in the blocks, those without adapter included.
        """

    def apply(self, q: Tensor) -> Tensor:
        """The effective weight (O, I); `q` of the tensors' dtype."""

    def tensors(self) -> dict[str, Tensor]:
        """What is stored, by suffix; empty if there is nothing."""

    def parameters(self) -> list[Tensor]:
        """What is trained."""

    def each(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The same with every tensor changed."""

    def stored(self) -> Self:
        """The same as the artifact holds it, in fp16."""


ADAPTERS: dict[AdapterName, type[Adapter]] = {"lora": LowRank, "dora": Dora, "ia3": Ia3}


def trainable(adapter: Adapter) -> Adapter:
    """A copy in fp32 whose tensors require gradients."""
    return adapter.each(lambda tensor: tensor.detach().float().clone().requires_grad_())


def to_dtype(adapter: Adapter, dtype: torch.dtype) -> Adapter:
    return adapter.each(lambda tensor: tensor.to(dtype))
