"""ApiQ-bw as the paper has it, written out: the project's own code is checked against this.

arXiv 2402.05147, sections 3 and 4, and the options of its public scripts: fake-quantized layers in
place of the linear layers of a whole decoder block, torch's AdamW, one sample a step, in order.
Imports nothing of what it checks.
"""

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

CLIPPING_LR, ADAPTER_LR, WEIGHT_DECAY = 5e-3, 5e-4, 0.1
LORA_ALPHA = 16


class RoundStraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.round(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


def round_ste(x: Tensor) -> Tensor:
    return RoundStraightThrough.apply(x)  # type: ignore[no-untyped-call]


class FakeQuantLinear(nn.Module):
    """y = x (Q + A B^T), with W of shape (d_in, d_out) as in the paper."""

    def __init__(self, linear: nn.Linear, bits: int, group_size: int, lora_a: Tensor) -> None:
        super().__init__()
        self.levels = 2**bits - 1
        self.group_size = group_size
        self.w = linear.weight.detach().T.clone()
        self.bias = None if linear.bias is None else linear.bias.detach()
        d_in, d_out = self.w.shape
        rank = lora_a.shape[0]
        groups = (d_in // group_size, 1, d_out)
        self.gamma = nn.Parameter(torch.full(groups, 4.0))
        self.beta = nn.Parameter(torch.full(groups, 4.0))
        self.a = nn.Parameter(lora_a.T.clone())
        self.b = nn.Parameter(torch.zeros(d_out, rank))
        self.scaling = LORA_ALPHA / rank

    def quantized(self) -> Tensor:
        w = self.w.reshape(-1, self.group_size, self.w.shape[1])
        highest = w.amax(dim=1, keepdim=True).clamp(min=0)
        lowest = w.amin(dim=1, keepdim=True).clamp(max=0)
        upper, lower = torch.sigmoid(self.gamma) * highest, torch.sigmoid(self.beta) * lowest
        s = (upper - lower) / self.levels
        z = -round_ste(lower / s)
        codes = torch.clamp(round_ste(w / s) + z, 0, self.levels)
        return (s * (codes - z)).reshape(self.w.shape)

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.quantized() + self.scaling * (x @ self.a @ self.b.T)
        return y if self.bias is None else y + self.bias


def train_block(
    block: nn.Module,
    call: Mapping[str, Any],
    x: Tensor,
    xq: Tensor,
    lora_a: Mapping[str, Tensor],
    *,
    bits: int,
    group_size: int,
    epochs: int,
) -> tuple[list[float], nn.Module]:
    """Mean loss of each epoch, and the trained block.

    `block` has its full-precision weights; `call` is what it gets beside the hidden states;
    `x`, `xq` (samples, length, width); `lora_a` (r, d_in) by layer.
    """
    student = copy.deepcopy(block)
    for name, a in lora_a.items():
        parent, _, child = name.rpartition(".")
        linear = block.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        layer = FakeQuantLinear(linear, bits, group_size, a)
        setattr(student.get_submodule(parent), child, layer)
    for parameter in block.parameters():
        parameter.requires_grad_(False)
    clipping, adapters = [], []
    for module in student.modules():
        if isinstance(module, FakeQuantLinear):
            clipping += [module.gamma, module.beta]
            adapters += [module.a, module.b]
    optimizer = torch.optim.AdamW(
        [{"params": clipping, "lr": CLIPPING_LR}, {"params": adapters, "lr": ADAPTER_LR}],
        weight_decay=WEIGHT_DECAY,
    )
    means = []
    for _ in range(epochs):
        losses = []
        for sample, sample_q in zip(x, xq, strict=True):
            with torch.no_grad():
                wanted = block(sample[None], **call)
                wanted_q = block(sample_q[None], **call)
            given = student(sample_q[None], **call)
            loss = nn.functional.mse_loss(given, wanted) + nn.functional.mse_loss(given, wanted_q)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        means.append(math.fsum(losses) / len(losses))
    return means, student
