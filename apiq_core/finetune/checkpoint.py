"""All that an optimisation is, in one safetensors file: killed and resumed it goes on the same.

Random numbers are no part of it: order and split are functions of the seed.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import BaseModel
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from apiq_core.checkpoint import write_tensors
from apiq_core.identity import differing

MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW


class Point(BaseModel):
    """What was measured after so many steps."""

    step: int
    train_loss: float | None  # nats a token, mean since the last point; null before the first step
    validation_loss: float
    lr: float
    tokens_per_s: float | None  # of training
    peak_memory_bytes: int | None = None  # since training began; null in points of older versions


class State(BaseModel):
    """Where a run is, beside its tensors."""

    step: int = 0  # optimiser steps that are done
    micro_batch_size: int
    lr_factor: float = 1.0  # halved each time the loss was not finite
    points: list[Point] = []
    best_step: int = 0
    train_loss: float = 0.0  # summed since the last point
    train_tokens: int = 0  # as many
    train_s: float = 0.0  # as long
    score_s: float = 0.0  # of the last score

    @property
    def best_loss(self) -> float:
        return min(point.validation_loss for point in self.points)

    @property
    def scores_since_best(self) -> int:
        return sum(point.step > self.best_step for point in self.points)


class Unusable(Exception):
    """There is a checkpoint, but not of this run: `differs` names the fields of the identity, and
    is empty where it cannot be read."""

    def __init__(self, why: str, differs: list[str]) -> None:
        super().__init__(why)
        self.differs = differs


def save(
    path: Path,
    state: State,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    best: Mapping[str, Tensor],
    identity: Mapping[str, object],
) -> None:
    """Write a checkpoint that either is whole or is not there."""
    tensors = {f"parameter/{name}": p.detach() for name, p in parameters.items()}
    tensors |= {f"best/{name}": tensor for name, tensor in best.items()}
    for name, parameter in parameters.items():
        moments = optimizer.state.get(parameter, {})
        tensors |= {f"{key}/{name}": moments[key] for key in MOMENTS if key in moments}
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"state": state.model_dump_json(), "identity": json.dumps(identity, sort_keys=True)}
    write_tensors(path, tensors, metadata)


def load(
    path: Path,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    identity: Mapping[str, object],
) -> tuple[State, dict[str, Tensor]] | None:
    """Put a checkpoint back: its state and the best parameters so far.

    None if there is none. Raises `Unusable` if it is not whole or has another identity.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            differs = differing(json.loads(metadata["identity"]), json.loads(json.dumps(identity)))
            if differs:
                raise Unusable(f"was made with another {', '.join(differs)}", differs)
            state = State.model_validate_json(metadata["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise Unusable(f"cannot be read: {error}", []) from None
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"parameter/{name}"])
            optimizer.state.pop(parameter, None)
            if f"exp_avg/{name}" in tensors:
                device = parameter.device  # the step's too, which AdamW, fused, counts there
                moments = {key: tensors[f"{key}/{name}"].to(device) for key in MOMENTS}
                step = torch.tensor(float(state.step), device=device)
                optimizer.state[parameter] = {"step": step, **moments}
    best = {name: tensors[f"best/{name}"] for name in parameters if f"best/{name}" in tensors}
    return state, best
