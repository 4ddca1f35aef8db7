"""`lora`: an adapter beside frozen weights, for PEFT: that of a quantize job or a new one."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from apiq_core.adapters import PEFT_PREFIX
from apiq_core.adapters.dora import LEAST_NORM, MAGNITUDE, SPECK
from apiq_core.adapters.lora import ADAPTER_DTYPE, LowRank, lora_config
from apiq_core.checkpoint import disk_errors, write_tensors, write_text
from apiq_core.errors import UserError
from apiq_core.finetune.base import Base
from apiq_core.finetune.config import NEW_RANK, OF_A_NEW_ADAPTER, FinetuneConfig, Train
from apiq_core.finetune.parameters import is_trained, trained_parameters

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
NAME = "default"  # PEFT's, of the one adapter


def attach(model: PreTrainedModel, base: Base, config: FinetuneConfig) -> PeftModel:
    """`model` with the adapter of its quantize job, whatever it is, or with a new one.

    Raises `UserError`: `illegal_rank`, `illegal_adapter` for what only a new one has,
    `illegal_train` where the base's is on none of the layers that are to be trained.
    """
    if base.adapter_dir is None:
        wrapped = new_adapter(model, config)
    else:
        check_nothing_new(config)
        wrapped = PeftModel.from_pretrained(model, str(base.adapter_dir), is_trainable=True)
    choose_trained(wrapped, config.train)
    if not trained_parameters(wrapped):
        raise UserError(
            "illegal_train",
            f"train is {config.train}, but the base's adapter is on none of these layers; legal: "
            "all, or a base that bits quantized, not bits_per_weight",
            param="train",
            value=config.train,
        )
    return wrapped


def check_nothing_new(config: FinetuneConfig) -> None:
    """Refuse what a config says of a new adapter, where the base has one."""
    for name, code in OF_A_NEW_ADAPTER.items():
        value = getattr(config, name)
        if value is not None:
            raise UserError(
                code,
                f"{name} is {value}, but the base has an adapter, which is trained as it is; "
                f"legal: no {name}",
                param=name,
                value=value,
            )


def choose_trained(wrapped: PeftModel, train: Train) -> None:
    for name, parameter in wrapped.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and is_trained(name, train))


def new_adapter(model: PreTrainedModel, config: FinetuneConfig) -> PeftModel:
    """LoRA or DoRA, which changes nothing yet, on the linear layers that `train` means; never on
    the head."""
    rank, head = config.rank or NEW_RANK, model.get_output_embeddings()
    linears = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head]
    names = [name for name in linears if is_trained(name, config.train)]
    lora = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=names,
        lora_dropout=0.0,
        use_dora=config.adapter == "dora",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        wrapped = get_peft_model(model, lora)
    layers: list[Any] = [m for m in wrapped.modules() if isinstance(m, LoraLayer)]
    for layer in layers if lora.use_dora else ():
        dead = layer.lora_magnitude_vector[NAME].weight < LEAST_NORM
        layer.lora_B[NAME].weight.data[dead, 0] = SPECK
    return wrapped


@torch.no_grad()
def store(model: nn.Module) -> None:
    """Round what was trained to the dtype of its file."""
    for parameter in trained_parameters(model).values():
        parameter.copy_(parameter.to(ADAPTER_DTYPE))


def write(model: PeftModel, base: Base, out_dir: Path) -> None:
    """A PEFT adapter in `adapter/`; its config is that of the base's where it came from there."""
    tensors = adapter_tensors(model)
    if base.adapter_dir is None:
        write_new(tensors, out_dir)
        return
    target = out_dir / "adapter"
    with disk_errors():
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(base.adapter_dir / CONFIG_FILE, target / CONFIG_FILE)
    write_tensors(target / WEIGHTS_FILE, tensors)


def adapter_tensors(model: PeftModel) -> dict[str, Tensor]:
    """As the file holds them, by the names it gives them."""
    return {
        name: tensor.detach().to(ADAPTER_DTYPE)
        for name, tensor in get_peft_model_state_dict(model).items()
    }


def write_new(tensors: Mapping[str, Tensor], out_dir: Path) -> None:
    """A LoRA or DoRA adapter of these tensors in `adapter/`."""
    target = out_dir / "adapter"
    with disk_errors():
        target.mkdir(parents=True, exist_ok=True)
    inside = {name.removeprefix(PEFT_PREFIX): t for name, t in tensors.items()}
    layer_count = sum(name.endswith(LowRank.SUFFIXES[0]) for name in inside)
    is_dora = any(name.endswith(MAGNITUDE) for name in inside)
    content = lora_config(inside, layer_count, use_dora=is_dora)
    write_text(target / CONFIG_FILE, json.dumps(content, indent=2, sort_keys=True))
    write_tensors(target / WEIGHTS_FILE, tensors)
