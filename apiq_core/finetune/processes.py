"""Several processes that train one model, one device each: what they share out and agree on.

`accelerate launch` or `torchrun` starts them. Each holds the whole model and all rows, and
takes its share of every batch; gradients and losses are summed, so that all step alike. A
process alone gets back what it gave.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from torch import Tensor, nn

from apiq_core.errors import UserError

# one may wait for another: longer than the main process decodes answers. Who waits for a process
# that died is ended by the launcher.
PATIENCE = timedelta(days=1)
Item = TypeVar("Item")


@contextmanager
def joined(device: str) -> Iterator[str]:
    """The device of this process, which from now on works with those it was launched with.

    `device` is `auto`, `cpu` or `cuda`; of a process alone it is taken as it is. Raises
    `UserError(illegal_device)` where there is not a GPU for each.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    has_gpu = torch.cuda.is_available()
    on_cpu = device == "cpu" or (device == "auto" and not has_gpu)
    gpus, wanted = torch.cuda.device_count(), int(os.environ["LOCAL_WORLD_SIZE"])
    if device not in ("auto", "cpu", "cuda") or (not on_cpu and gpus < wanted):
        raise UserError(
            "illegal_device",
            f"device is {device!r}, and there are {wanted} processes for {gpus} GPUs; legal for "
            "several processes: auto, cpu or cuda, and at most one process a GPU",
            param="device",
            value=device,
            legal="auto, cpu, cuda",
        )
    state = PartialState(cpu=on_cpu, timeout=PATIENCE)  # gloo on CPUs, NCCL on GPUs
    yield str(state.device)
    state.destroy_process_group()  # not behind an error: the others may be waiting in it


def count() -> int:
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def is_main() -> bool:
    """Whether this is the one that writes and tells."""
    return _index() == 0


def share(items: Sequence[Item]) -> Sequence[Item]:
    """Those of `items` that are this process's: every `count()`-th."""
    return items[_index() :: count()]


def summed(value: float) -> float:
    """The sum over all processes, the same in each."""
    if count() == 1:
        return value
    return float(_sum(torch.tensor(value, dtype=torch.float64, device=PartialState().device)))


def any_of(flag: bool) -> bool:
    """Whether it is so in one of the processes; returns when all have asked."""
    return summed(float(flag)) > 0


def wait() -> None:
    """Until all are here."""
    any_of(False)


def sum_gradients(model: nn.Module) -> None:
    """Give every process the sum of the gradients of what is trained."""
    if count() == 1:
        return
    trained = [p for p in model.parameters() if p.requires_grad]
    for p in trained:  # a process without a share of the batch has no gradient
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
    total = _sum(torch.cat([p.grad.flatten() for p in trained if p.grad is not None]))
    for p, gradient in zip(trained, total.split([p.numel() for p in trained]), strict=True):
        p.grad = gradient.view_as(p)


def _index() -> int:
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def _sum(tensor: Tensor) -> Any:
    return reduce(tensor, "sum")
