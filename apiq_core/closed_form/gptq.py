"""GPTQ rounding (Frantar et al., arXiv 2210.17323), vectorised over output channels.

Column by column along the inputs, each weight is rounded and its error is moved to the columns
that are not rounded yet, along the inverse of H. Scale and zero point of a group are found
when its first column is reached, so they fit the weights as they are by then.
"""

import torch
from torch import Tensor

from apiq_core.device import one_thread
from apiq_core.quantizer import (
    QuantizedWeight,
    affine_parameters,
    extrema,
    search_clipping,
    to_integers,
)

# columns whose error is moved to the rest of the matrix in one product
BLOCK_COLUMNS = 128


def inverse_factor(gram: Tensor) -> Tensor:
    """Upper triangular U with U^T U = H^-1, for a damped H (I, I)."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor


def gptq(
    weight: Tensor, factor: Tensor, bits: int, group_size: int, *, clip: bool = True
) -> QuantizedWeight:
    """Round `weight` (O, I) with the `inverse_factor` (I, I) of its layer's damped Gram matrix.

    With `clip` each group's clipping is searched; without, its grid spans min and max.
    """
    columns = weight.T.contiguous().clone()  # (I, O): a column of W is a contiguous row here
    d_in, d_out = columns.shape
    group_size = group_size if group_size > 0 else d_in
    diagonal = factor.diagonal().contiguous()
    importance = diagonal.square().reciprocal()  # error of column i once the rest has adapted
    codes = torch.empty_like(columns)
    levels = 2**bits - 1
    scales = columns.new_empty(d_in // group_size, d_out)
    zeros = torch.empty_like(scales)
    step = min(group_size, BLOCK_COLUMNS)
    for start in range(0, d_in, step):
        end = min(start + step, d_in)
        group = start // group_size
        errors = columns.new_empty(end - start, d_out)
        with one_thread():
            if start % group_size == 0:
                members = slice(start, start + group_size)
                weights = columns[members].T.contiguous()  # (O, G)
                scales[group], zeros[group] = (
                    search_clipping(weights, importance[members], bits)
                    if clip
                    else affine_parameters(*extrema(weights), bits)
                )
            scale, inverse_scale = scales[group], scales[group].reciprocal()
            lowest, highest = -zeros[group], levels - zeros[group]
            for i in range(start, end):
                rounded = (columns[i] * inverse_scale).round_().clamp_(lowest, highest)  # q - z
                codes[i] = rounded
                torch.sub(columns[i], rounded.mul_(scale), out=errors[i - start])
                errors[i - start].div_(diagonal[i])
                columns[i + 1 : end].addr_(factor[i, i + 1 : end], errors[i - start], alpha=-1)
        codes[start:end] += zeros[group]
        columns[end:].addmm_(factor[start:end, end:].T, errors, alpha=-1)
    return to_integers(codes.T.contiguous(), scales.T.contiguous(), zeros.T.contiguous(), bits)
