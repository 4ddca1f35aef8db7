"""`l4q` (arXiv 2402.04902): LoRA inside the quantizer, so that what is published has no adapter.

Of a quantize job W0 is Q, which stays packed, the grid is the job's own, and B A starts as its
adapter: Q + B A is what the job fitted, though it is rounded again
(docs/decisions/0012-l4q-starts-at-the-jobs-adapter.md). A full-precision model is put on the grid
that a search for the clipping finds.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel

from apiq_core.adapters import PEFT_PREFIX
from apiq_core.adapters.lora import LowRank, random_start
from apiq_core.config import GROUP_SIZES, PER_CHANNEL, WIDTHS, LayerSpec, QuantizeConfig
from apiq_core.errors import UserError
from apiq_core.finetune.base import Base
from apiq_core.finetune.config import NEW_RANK, FinetuneConfig
from apiq_core.finetune.methods.adapter import WEIGHTS_FILE, check_nothing_new
from apiq_core.finetune.methods.l4q_linear import L4QLinear, device_of
from apiq_core.finetune.packed.packed_checkpoint import write_checkpoint
from apiq_core.finetune.packed.packed_linear import PackedLinear
from apiq_core.finetune.packed.packed_model import packed_layers, replace_layer
from apiq_core.finetune.parameters import is_trained
from apiq_core.inspect import inspect_model
from apiq_core.quantizer import SCALE_DTYPE, search_clipping, to_groups
from apiq_core.resolve import resolve
from apiq_core.skeleton import find_blocks


def attach(model: PreTrainedModel, base: Base, config: FinetuneConfig) -> PreTrainedModel:
    """`model` with L4Q's layers in place of the linear ones of its blocks.

    Those that `config.train` does not mean are packed where they start. Raises `UserError`
    (`illegal_base`, `illegal_bits`, `illegal_group_size`, `illegal_rank`).
    """
    spec = None if packed_layers(model) else _spec(base)
    adapters = {} if base.adapter_dir is None else _read_adapters(base.adapter_dir, config)
    generator = torch.Generator().manual_seed(config.seed)
    prefix, blocks = find_blocks(model)
    linears = [n for n, module in blocks.named_modules() if isinstance(module, nn.Linear)]
    for name in (f"{prefix}.{inside}" for inside in linears):
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        low_rank = adapters.get(name)
        if low_rank is None:
            shape = torch.empty(layer.out_features, layer.in_features)
            low_rank = random_start(shape, config.rank or NEW_RANK, generator=generator)
        started = _start(layer, low_rank, spec)
        replace_layer(model, name, started if is_trained(name, config.train) else started.packed())
    return model


def store(model: nn.Module) -> None:
    """Give each layer the integers that its file will hold."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, L4QLinear):
            replace_layer(model, name, layer.packed())


def write(model: PreTrainedModel, base: Base, out_dir: Path) -> None:
    """A low-bit checkpoint in `model/`, in the format of the base's, or compressed-tensors."""
    write_checkpoint(model, base.model_dir, out_dir / "model")


def _start(layer: nn.Linear, low_rank: LowRank, spec: LayerSpec | None) -> L4QLinear:
    """On the grid of `layer`, or, as `spec` says, on the one that is best for its weight."""
    device = device_of(layer)
    a, b = low_rank.a.float().to(device), low_rank.b.float().to(device)
    if spec is None:
        assert isinstance(layer, PackedLinear)
        integers = layer.integers()
        return L4QLinear(layer, integers.scales, integers.zero_points, integers.bits, a, b)
    groups = to_groups(layer.weight.float() + b @ a, spec.group_size)
    importance = torch.ones(groups.shape[2], device=device)
    scales, zeros = search_clipping(groups, importance, spec.bits)
    return L4QLinear(layer, scales.to(SCALE_DTYPE), zeros.to(torch.uint8), spec.bits, a, b)


def _read_adapters(adapter_dir: Path, config: FinetuneConfig) -> dict[str, LowRank]:
    """The adapter of a quantize job by layer name; its factors carry their full scale."""
    check_nothing_new(config)
    tensors = load_file(adapter_dir / WEIGHTS_FILE)
    others = [name for name in tensors if not name.endswith(LowRank.SUFFIXES)]
    if others:
        raise UserError(
            "illegal_base",
            "base has an adapter that is no LoRA, so it cannot be added to the weights; legal for "
            "method l4q: adapter lora, or rank 0",
            param="base",
            value=others[0],
        )
    down, up = LowRank.SUFFIXES
    names = [name.removesuffix(f".{down}") for name in tensors if name.endswith(down)]
    return {
        name.removeprefix(PEFT_PREFIX): LowRank(tensors[f"{name}.{down}"], tensors[f"{name}.{up}"])
        for name in names
    }


def _spec(base: Base) -> LayerSpec:
    """To what each layer of a full-precision model is quantized."""
    if base.bits not in WIDTHS:
        given = "bits is not given" if base.bits is None else f"bits is {base.bits}"
        raise UserError(
            "illegal_bits",
            f"{given}, and base is not quantized; legal for method l4q: 2, 3, 4 or 8, or a base "
            "that has packed integers",
            param="bits",
            value=base.bits,
            legal=list(WIDTHS),
        )
    legal = (*GROUP_SIZES, PER_CHANNEL)
    if base.group_size is not None and base.group_size not in legal:
        raise UserError(
            "illegal_group_size",
            f"group_size is {base.group_size}; legal: 32, 64, 128 or -1",
            param="group_size",
            value=base.group_size,
            legal=list(legal),
        )
    asked = {"method": "rtn", "bits": base.bits, "group_size": base.group_size}
    config = QuantizeConfig.model_validate(asked)
    return resolve(config, inspect_model(base.model_dir)).layer_spec()
