"""IA3 (Liu et al., arXiv 2205.05638): W = diag(l) Q, or Q diag(l) where the input is scaled.

PEFT scales a layer's output, and the input of those that its config calls feedforward modules: the
layer that ends the MLP. It scales an output together with the bias; a layer that has one is scaled
on its input too, so that the adapter changes the weight alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from peft import IA3Config
from torch import Tensor

from apiq_core.adapters.lora import ADAPTER_DTYPE, LowRank
from apiq_core.adapters.peft_json import last_names, plain

VECTOR = "ia3_l"
FEEDFORWARD = "down_proj"


@dataclass
class Ia3:
    SUFFIXES: ClassVar[tuple[str, ...]] = (VECTOR,)

    scale: Tensor  # l: (O, 1) of the output, (1, I) of the input

    @classmethod
    def start(cls, q: Tensor, low_rank: LowRank, *, name: str, has_bias: bool) -> Self:
        """At 1. `low_rank` is of rank 0: there is no room for it."""
        d_out, d_in = q.shape
        on_input = has_bias or name.endswith(FEEDFORWARD)
        return cls(q.new_ones(1, d_in) if on_input else q.new_ones(d_out, 1))

    @classmethod
    def read(cls, tensors: Mapping[str, Tensor]) -> Self:
        return cls(tensors[VECTOR])

    @staticmethod
    def peft_config(tensors: Mapping[str, Tensor], layer_count: int) -> dict[str, Any]:
        modules = {name.removesuffix(f".{VECTOR}"): scale for name, scale in tensors.items()}
        config = IA3Config(
            target_modules=last_names(modules),
            feedforward_modules=last_names(x for x, scale in modules.items() if len(scale) == 1),
            task_type="CAUSAL_LM",
            inference_mode=True,
        )
        return plain(config)

    def apply(self, q: Tensor) -> Tensor:
        return q * self.scale

    def tensors(self) -> dict[str, Tensor]:
        return {VECTOR: self.scale}

    def parameters(self) -> list[Tensor]:
        return [self.scale]

    def each(self, change: Callable[[Tensor], Tensor]) -> Self:
        return type(self)(change(self.scale))

    def stored(self) -> Self:
        return type(self)(self.scale.to(ADAPTER_DTYPE))
