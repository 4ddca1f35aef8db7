"""Where memory runs out."""

import torch


def is_out_of_memory(error: RuntimeError) -> bool:
    """Of a GPU, `torch.OutOfMemoryError`; a CPU has no error of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)
