"""What a training run moves, and how fast."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from apiq_core.finetune.config import FinetuneConfig, Train

PLACES: dict[Train, str] = {"all": ".", "attention": ".self_attn.", "mlp": ".mlp."}
QUANTIZER = ("log_scale_factor", "zero_point_shift")  # of `l4q_linear`


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def is_trained(name: str, train: Train) -> bool:
    """Whether `train` means the parameter or layer of this name."""
    return PLACES[train] in name


def parameter_groups(
    parameters: Mapping[str, nn.Parameter], config: FinetuneConfig
) -> list[dict[str, Any]]:
    """As an optimiser takes them; `relative_lr` is a group's learning rate as a share of `lr`."""
    lrs = {
        name: config.lr_quantizer if name.endswith(QUANTIZER) else config.lr for name in parameters
    }
    return [
        {
            "params": [p for name, p in parameters.items() if lrs[name] == lr],
            "lr": lr,
            "relative_lr": lr / config.lr,
        }
        for lr in dict.fromkeys(lrs.values())
    ]
