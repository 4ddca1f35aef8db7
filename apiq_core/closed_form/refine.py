"""Codes and scales better than GPTQ's: coordinate descent on ||Xq (T - Q)^T||^2.

GPTQ decides each code once, and knows nothing of those behind it but that they will adapt. Here
every code is decided again with all the others known (QuantEase, arXiv 2309.01885), and then all
scales of an output channel at once, which is a small linear system. Neither raises the error, but
for the rounding of the scales to fp16.
"""

import torch
from torch import Tensor

from apiq_core.device import one_thread
from apiq_core.quantizer import QuantizedWeight, round_scale, to_integers

BLOCK_COLUMNS = 64  # columns whose changes reach the rest of the matrix in one product
CHUNK_WEIGHTS = 2**23  # refined at a time: output channels do not know of each other
SCALE_DAMPING = 1e-3  # relative to the mean diagonal of a channel's system
MIN_SCALE_FACTOR = 0.3  # a scale that would shrink below is left as it was: it must stay positive


@torch.no_grad()
def refine(target: Tensor, quantized: QuantizedWeight, gram: Tensor) -> QuantizedWeight:
    """One round over the codes and the scales of `quantized`, which is to approach `target` (O, I).

    `gram` is the layer's damped H (I, I). The zero points stay.
    """
    d_out, d_in = target.shape
    channels = min(d_out, max(1, CHUNK_WEIGHTS // d_in))
    codes, scales = torch.empty_like(quantized.codes), torch.empty_like(quantized.scales)
    for start in range(0, d_out, channels):
        part = slice(start, start + channels)
        codes[part], scales[part] = _refine(
            _columns(target[part]),
            _columns(quantized.codes[part]),
            _columns(quantized.scales[part]),
            _columns(quantized.zero_points[part]),
            gram,
            2**quantized.bits - 1,
        )
    return to_integers(codes, scales, quantized.zero_points, quantized.bits)


def _columns(matrix: Tensor) -> Tensor:
    """The transpose in fp32, each column of `matrix` a contiguous row: what a step works on."""
    return matrix.T.to(torch.float32, memory_format=torch.contiguous_format)


def _refine(
    target: Tensor, codes: Tensor, scales: Tensor, zeros: Tensor, gram: Tensor, levels: int
) -> tuple[Tensor, Tensor]:
    """Codes (O, I) and scales (O, N) from `target`, `codes` (I, O), `scales`, `zeros` (N, O)."""
    groups = len(scales)
    steps = codes.unflatten(0, (groups, -1)) - zeros.unsqueeze(1)  # q - z (N, G, O)
    values = (steps * scales.unsqueeze(1)).flatten(0, 1)
    gradient = gram @ (target - values)  # H (T - Q)^T (I, O)
    _descend(steps.flatten(0, 1), gradient, scales, -zeros, levels - zeros, gram)
    refitted = _refit_scales(steps, gradient, scales, gram)
    codes = (steps + zeros.unsqueeze(1)).flatten(0, 1)
    return codes.T, refitted.T


def _descend(
    steps: Tensor, gradient: Tensor, scales: Tensor, lowest: Tensor, highest: Tensor, gram: Tensor
) -> None:
    """Set each row of `steps` (I, O) to its optimum given all others; keeps `gradient`. In place.

    The objective is quadratic in a weight, with curvature H_ii: its optimum is q + gradient / H_ii.
    """
    d_in = len(steps)
    group_size = d_in // len(scales)
    inverse_scales = scales.reciprocal()
    inverse_diagonal = gram.diagonal().reciprocal().tolist()
    for start in range(0, d_in, BLOCK_COLUMNS):
        end = min(start + BLOCK_COLUMNS, d_in)
        inside = gradient[start:end].clone()
        changes = torch.empty_like(inside)
        with one_thread():
            for i in range(start, end):
                group, row = i // group_size, i - start
                best = torch.addcmul(
                    steps[i], inside[row], inverse_scales[group], value=inverse_diagonal[i]
                )
                best.round_().clamp_(lowest[group], highest[group])
                torch.sub(best, steps[i], out=changes[row]).mul_(scales[group])
                steps[i] = best
                inside[row + 1 :].addr_(gram[i, i + 1 : end], changes[row], alpha=-1)
        gradient.addmm_(gram[:, start:end], changes, alpha=-1)


def _refit_scales(steps: Tensor, gradient: Tensor, scales: Tensor, gram: Tensor) -> Tensor:
    """The scales (N, O) that are best for `steps` (N, G, O), all groups of a channel together.

    With C_n the weights of group n in steps: sum_m (C_n^T H_nm C_m) ds_m = C_n^T gradient_n.
    """
    groups, group_size, d_out = steps.shape
    system = steps.new_empty(d_out, groups, groups)
    for n in range(groups):  # a symmetric system: m >= n is enough
        members, behind = slice(n * group_size, (n + 1) * group_size), n * group_size
        seen = (gram[behind:, members] @ steps[n]).view(groups - n, group_size, d_out)  # H_mn C_n
        system[:, n, n:] = (steps[n:] * seen).sum(1).T
        system[:, n:, n] = system[:, n, n:]
    wanted = (steps * gradient.view_as(steps)).sum(1)  # (N, O)
    diagonal = system.diagonal(dim1=1, dim2=2)
    diagonal += (SCALE_DAMPING * diagonal.mean(1, keepdim=True)).clamp(min=1e-12)
    change = torch.linalg.solve(system, wanted.T.unsqueeze(2)).squeeze(2).T
    refitted = scales + change
    return round_scale(torch.where(refitted > MIN_SCALE_FACTOR * scales, refitted, scales))
