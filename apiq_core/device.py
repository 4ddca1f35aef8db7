"""Where the work runs and in which dtype. The GPU path is written but was not run on a GPU yet."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from apiq_core.errors import UserError


def pick_device(name: str) -> torch.device:
    """`auto` takes the first GPU if there is one. Raises `UserError` for a device that is not."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise _illegal(name) from None
    if device.type not in ("cpu", "cuda"):
        raise _illegal(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("illegal_device", "there is no GPU here", param="device", value=name)
    return device


def _illegal(name: str) -> UserError:
    legal = "auto, cpu, cuda[:n]"
    return UserError(
        "illegal_device",
        f"device is {name!r}; legal: {legal}",
        param="device",
        value=name,
        legal=legal,
    )


def compute_dtype(device: torch.device) -> torch.dtype:
    """bf16 on a GPU; fp32 on a CPU, where bf16 alone moves the logits of a small model."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def matmul_dtype(device: torch.device) -> torch.dtype:
    """Of the matrix products inside blocks while quantizing: bf16 where there is hardware for it.

    Everything between the products - residual stream, norms, losses, Gram sums - stays in
    `compute_dtype`. What is reported is measured in fp32 throughout.
    """
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        fast = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
        return torch.bfloat16 if fast else compute_dtype(device)
    return compute_dtype(device)


@contextmanager
def one_thread() -> Iterator[None]:
    """For loops of many small operations: to share one of them costs more than to do it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def return_freed_memory() -> None:
    """Give the system back what glibc keeps of freed tensors; else blocks pile up in its heap.

    Tensors below 32 MB lie there, between others that live on. Other C libraries keep less.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
