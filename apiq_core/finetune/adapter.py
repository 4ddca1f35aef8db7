"""Which adapter is trained, which part of it moves, and how it is stored."""

import json
import shutil
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from torch import Tensor, nn
from transformers import PreTrainedModel

from apiq_core.adapters.lora import ADAPTER_DTYPE, lora_config
from apiq_core.checkpoint import disk_errors, write_tensors, write_text
from apiq_core.errors import UserError
from apiq_core.finetune.config import Train

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
DEFAULT_RANK = 16
PLACES: dict[Train, str] = {"all": ".", "attention": ".self_attn.", "mlp": ".mlp."}


def attach(
    model: PreTrainedModel, adapter_dir: Path | None, *, train: Train, rank: int | None, seed: int
) -> PeftModel:
    """`model` with the adapter of a quantize job, or with a new LoRA adapter, part of it trained.

    The trained part is in fp32. Raises `UserError(illegal_rank)` for a rank beside an adapter.
    """
    if adapter_dir is None:
        wrapped = _new(model, rank or DEFAULT_RANK, seed)
    elif rank is not None:
        raise UserError(
            "illegal_rank",
            f"rank is {rank}, but the base has an adapter, whose ranks are kept; legal: no rank",
            param="rank",
            value=rank,
        )
    else:
        wrapped = PeftModel.from_pretrained(model, str(adapter_dir), is_trainable=True)
    for name, parameter in wrapped.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and PLACES[train] in name)
    return wrapped


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


@torch.no_grad()
def round_to_stored(model: nn.Module) -> None:
    """Give the trained part the values that its file will hold."""
    for parameter in trained_parameters(model).values():
        parameter.copy_(parameter.to(ADAPTER_DTYPE))


def write(model: PeftModel, adapter_dir: Path | None, target: Path) -> None:
    """A PEFT adapter in `target`; its config is that of `adapter_dir` where it came from there."""
    tensors: dict[str, Tensor] = {
        name: tensor.detach().to(ADAPTER_DTYPE)
        for name, tensor in get_peft_model_state_dict(model).items()
    }
    with disk_errors():
        target.mkdir(parents=True, exist_ok=True)
        if adapter_dir is not None:
            shutil.copyfile(adapter_dir / CONFIG_FILE, target / CONFIG_FILE)
    if adapter_dir is None:
        inside = {name.removeprefix("base_model.model."): t for name, t in tensors.items()}
        content = lora_config(inside, len(inside) // 2)
        write_text(target / CONFIG_FILE, json.dumps(content, indent=2, sort_keys=True))
    write_tensors(target / WEIGHTS_FILE, tensors)


def _new(model: PreTrainedModel, rank: int, seed: int) -> PeftModel:
    head = model.get_output_embeddings()
    names = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head]
    config = LoraConfig(
        r=rank, lora_alpha=rank, target_modules=names, lora_dropout=0.0, task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_peft_model(model, config)
