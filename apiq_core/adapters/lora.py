"""LoRA (Hu et al., arXiv 2106.09685): W = Q + B A."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from peft import LoraConfig
from torch import Tensor, nn

from apiq_core.adapters.peft_json import last_names, plain

ADAPTER_DTYPE = torch.float16


@dataclass
class LowRank:
    """LoRA factors as PEFT stores them: W = Q + scaling B A. Rank 0: none."""

    SUFFIXES: ClassVar[tuple[str, ...]] = ("lora_A.weight", "lora_B.weight")

    a: Tensor  # (R, I), lora_A.weight
    b: Tensor  # (O, R), lora_B.weight
    scaling: float = 1.0  # alpha / r while training; what is stored has 1

    @classmethod
    def start(cls, q: Tensor, low_rank: "LowRank", *, name: str, has_bias: bool) -> "LowRank":
        return low_rank

    @classmethod
    def read(cls, tensors: Mapping[str, Tensor]) -> Self:
        down, up = cls.SUFFIXES
        return cls(tensors[down], tensors[up])

    @staticmethod
    def peft_config(tensors: Mapping[str, Tensor], layer_count: int) -> dict[str, Any]:
        return lora_config(tensors, layer_count)

    def product(self) -> Tensor:
        """What is added to Q, (O, I)."""
        return self.scaling * (self.b @ self.a)

    def apply(self, q: Tensor) -> Tensor:
        return q + self.product()

    def tensors(self) -> dict[str, Tensor]:
        if len(self.a) == 0:
            return {}
        return dict(zip(self.SUFFIXES, (self.a, self.b), strict=True))

    def parameters(self) -> list[Tensor]:
        return [self.a, self.b]

    def each(self, change: Callable[[Tensor], Tensor]) -> Self:
        return type(self)(change(self.a), change(self.b), self.scaling)

    def stored(self) -> Self:
        """Each factor takes half of the scaling, so that a reader needs none."""
        root = self.scaling**0.5
        return type(self)((self.a * root).to(ADAPTER_DTYPE), (self.b * root).to(ADAPTER_DTYPE))


def no_adapter(weight: Tensor) -> LowRank:
    """Factors of rank 0 for a layer of `weight` (O, I)."""
    d_out, d_in = weight.shape
    return LowRank(weight.new_zeros(0, d_in), weight.new_zeros(d_out, 0))


def random_start(
    weight: Tensor, rank: int, *, scaling: float = 1.0, generator: torch.Generator | None = None
) -> LowRank:
    """LoRA's own for a layer of `weight` (O, I): A kaiming-uniform(sqrt 5), B zero.

    So it changes nothing yet. Drawn on the CPU, from `generator` or the default one.
    """
    d_out, d_in = weight.shape
    a = torch.empty(rank, d_in)
    if rank:
        nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=generator)
    return LowRank(a.to(weight.device), weight.new_zeros(d_out, rank), scaling)


def lora_config(tensors: Mapping[str, Tensor], layer_count: int, **fields: Any) -> dict[str, Any]:
    """adapter_config.json of LoRA and of what PEFT builds on it.

    Where some of the layers have none, those that have are named in full.
    """
    down, _ = LowRank.SUFFIXES
    ranks = {
        name.removesuffix(f".{down}"): len(factor)
        for name, factor in tensors.items()
        if name.endswith(down)
    }
    rank = max(ranks.values())
    others = {name: own for name, own in ranks.items() if own != rank}
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,  # the factors carry their full scale
        rank_pattern=others,
        alpha_pattern=others,
        target_modules=last_names(ranks) if len(ranks) == layer_count else sorted(ranks),
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
        inference_mode=True,
        **fields,
    )
    return plain(config)
