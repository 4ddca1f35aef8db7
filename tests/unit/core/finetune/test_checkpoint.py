"""What a training run puts down, and takes up again."""

from pathlib import Path

import torch
from torch import nn

from apiq_core.finetune import checkpoint
from apiq_core.finetune.checkpoint import State

IDENTITY = {"config.lr": 1e-3}


def trained(device: str) -> tuple[dict[str, nn.Parameter], torch.optim.Optimizer]:
    parameters = {"a": nn.Parameter(torch.ones(2, 3, device=device))}
    return parameters, torch.optim.AdamW(parameters.values(), fused=device == "cpu")


def test_what_is_taken_up_lies_where_the_parameters_lie(tmp_path: Path) -> None:
    file = tmp_path / "state.safetensors"
    parameters, optimizer = trained("cpu")
    parameters["a"].grad = torch.ones(2, 3)
    optimizer.step()
    state = State(step=1, micro_batch_size=2)
    checkpoint.save(file, state, parameters, optimizer, {}, IDENTITY)
    wanted = optimizer.state[parameters["a"]]
    for device in ("cpu", "meta"):  # the second stands for a GPU
        parameters, optimizer = trained(device)
        assert checkpoint.load(file, parameters, optimizer, IDENTITY) == (state, {})
        found = optimizer.state[parameters["a"]]
        assert {name: tensor.device.type for name, tensor in found.items()} == dict.fromkeys(
            ("step", "exp_avg", "exp_avg_sq"), device
        )
        assert {n: (t.shape, t.dtype) for n, t in found.items()} == {
            n: (t.shape, t.dtype) for n, t in wanted.items()
        }
