"""How the values of a tensor are spread."""

from typing import Any

import torch
from torch import Tensor

BINS = 61


def histogram(tensor: Tensor) -> dict[str, Any]:
    """Share of the values in each of equal bins over -limit .. limit."""
    values = tensor.float().flatten()
    limit = max(float(values.abs().max()), 1e-12) if values.numel() else 1.0
    counts = torch.histc(values, bins=BINS, min=-limit, max=limit)
    return {"limit": limit, "shares": (counts / max(1, values.numel())).tolist()}
