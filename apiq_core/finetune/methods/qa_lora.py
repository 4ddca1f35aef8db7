"""`qa-lora` (arXiv 2309.14717): LoRA that sees the sum of each quantization group of its input.

B A is then one number a group and output channel: it could be merged into the zero points without
rounding anything, if these were fractions. Checkpoints hold integers, so what is published is the
LoRA adapter that it equals: each column of A (R, N) repeated for the inputs of its group.
"""

from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel

from apiq_core.errors import UserError
from apiq_core.finetune.base import Base
from apiq_core.finetune.config import FinetuneConfig
from apiq_core.finetune.methods import adapter
from apiq_core.finetune.methods.adapter import NAME
from apiq_core.finetune.packed.packed_model import packed_layers
from apiq_core.finetune.parameters import is_trained

store = adapter.store


class GroupedLinear(nn.Module):
    """LoRA's A on sums over groups, (..., I) -> (..., R)."""

    def __init__(self, a: Tensor, group_size: int) -> None:
        """From A (R, I) as LoRA draws it: the first column of a group stands for all of it."""
        super().__init__()
        self.group_size = group_size
        self.weight = nn.Parameter(a[:, ::group_size].clone())  # (R, N)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x.unflatten(-1, (-1, self.group_size)).sum(-1), self.weight)

    def repeated(self) -> Tensor:
        """The A (R, I) that does the same without sums."""
        return self.weight.detach().repeat_interleave(self.group_size, 1)


def attach(model: PreTrainedModel, base: Base, config: FinetuneConfig) -> PeftModel:
    """`model` with a new adapter.

    Raises `UserError(illegal_base)` where the base has no groups, or has an adapter already: that
    one sees more than sums.
    """
    layers = packed_layers(model)
    if all(layer.group_size == layer.in_features for layer in layers.values()):  # or there is none
        raise _illegal("base is not quantized in groups", base)
    if base.adapter_dir is not None:
        raise _illegal("base has an adapter", base)
    wrapped = adapter.new_adapter(model, config)
    inner: Any = wrapped.get_base_model()
    for name, layer in layers.items():
        if not is_trained(name, config.train):
            continue  # it has no adapter
        factors = inner.get_submodule(name).lora_A
        factors[NAME] = GroupedLinear(factors[NAME].weight.detach(), layer.group_size)
    return wrapped


def write(model: PeftModel, base: Base, out_dir: Path) -> None:
    """An ordinary LoRA adapter in `adapter/`."""
    tensors = adapter.adapter_tensors(model)
    for name, module in model.named_modules():
        if isinstance(module, GroupedLinear):
            file_name = f"{name.removesuffix(f'.{NAME}')}.weight"
            tensors[file_name] = module.repeated().to(tensors[file_name].dtype)
    adapter.write_new(tensors, out_dir)


def _illegal(what: str, base: Base) -> UserError:
    return UserError(
        "illegal_base",
        f"{what}; legal for method qa-lora: a quantize job without adapter, with a group_size of "
        "32, 64 or 128, in the format compressed-tensors",
        param="base",
        value=base.model_dir.name,
    )
