"""Normal floats (Dettmers et al., arXiv 2305.14314, section 3): quantiles of a Gaussian as levels.

A group's weights are divided by their largest absolute value and rounded to the nearest of 2^b
fixed levels in -1 .. 1, which are spaced as values of a normal distribution lie, with 0 among them.
"""

import torch
from torch import Tensor

from apiq_core.quantizer import round_scale, to_groups

# probability of the outermost level: half a step inside 1, on average of both sides of NF4. The
# tables of LoftQ and ApiQ keep it for 2 and 3 bits
OUTERMOST = 0.9677083


def normal_float(bits: int) -> Tensor:
    """The 2^b levels, ascending: 2^(b-1) above zero, zero, 2^(b-1) - 1 below."""
    half = 2 ** (bits - 1)

    def quantiles(count: int) -> Tensor:
        probabilities = torch.linspace(OUTERMOST, 0.5, count + 1, dtype=torch.float64)
        values: Tensor = torch.special.ndtri(probabilities[:-1])
        return values

    levels = torch.cat([-quantiles(half - 1), torch.zeros(1, dtype=torch.float64), quantiles(half)])
    return (levels / levels.max()).sort().values.float()


def round_to_normal_float(weight: Tensor, bits: int, group_size: int) -> Tensor:
    """Q of `weight`, both (O, I), with an fp16 scale a group; `group_size` -1 for one a row."""
    levels = normal_float(bits).to(weight.device)
    groups = to_groups(weight, group_size)
    scales = round_scale(groups.abs().amax(-1, keepdim=True))
    middles = (levels[1:] + levels[:-1]) / 2
    return (levels[torch.bucketize(groups / scales, middles)] * scales).flatten(1)
