"""Where memory runs out, and what else than the model would fill it."""

import os

import torch

KERNELS = 64  # several times those of one length of rows: all blocks share them


def is_out_of_memory(error: RuntimeError) -> bool:
    """Of a GPU, `torch.OutOfMemoryError`; a CPU has no error of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)


def keep_few_kernels() -> None:
    """Let oneDNN forget the kernels of lengths that are past.

    It makes them for each shape of a product and keeps 1,024, which are gigabytes where rows have
    many lengths (docs/results/finetune.md). Without effect behind a process's first product.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KERNELS))
