from statistics import NormalDist

import pytest
import torch

from apiq_core.normal_float import normal_float, round_to_normal_float

# the 16 values of QLoRA (arXiv 2305.14314), appendix E, to the digits that they agree in with the
# quantiles they are defined by
NF4 = [
    -1.0,
    -0.6961928,
    -0.5250731,
    -0.3949175,
    -0.2844414,
    -0.1847734,
    -0.0910500,
    0.0,
    0.0795803,
    0.1609302,
    0.2461123,
    0.3379152,
    0.4407098,
    0.5626170,
    0.7229568,
    1.0,
]


def test_nf4_is_the_published_table() -> None:
    assert normal_float(4).tolist() == pytest.approx(NF4, abs=2e-7)


@pytest.mark.parametrize("bits", [2, 3])
def test_fewer_bits_are_the_same_quantiles(bits: int) -> None:
    half, outermost = 2 ** (bits - 1), 0.9677083

    def quantile(index: int, count: int) -> float:
        return NormalDist().inv_cdf(outermost + (0.5 - outermost) * index / count)

    above = [quantile(index, half) for index in range(half)]
    below = [-quantile(index, half - 1) for index in range(half - 1)]
    expected = sorted(level / above[0] for level in [*above, 0.0, *below])
    assert normal_float(bits).tolist() == pytest.approx(expected, abs=1e-6)
    assert len(expected) == 2**bits


@pytest.mark.parametrize("group_size", [32, 64, -1])
def test_every_weight_goes_to_its_nearest_level(group_size: int) -> None:
    weight = torch.randn(8, 128, generator=torch.Generator().manual_seed(0)).bfloat16().float()
    groups = weight.reshape(8, -1, group_size if group_size > 0 else 128)
    # bf16 weights: the largest of a group is an fp16 number, so its scale is not rounded
    values = normal_float(4) * groups.abs().amax(-1, keepdim=True)  # (O, N, 16)
    distance = (groups.unsqueeze(-1) - values.unsqueeze(2)).abs()
    rounded = round_to_normal_float(weight, 4, group_size)
    assert rounded.shape == weight.shape
    error = (rounded.reshape(groups.shape) - groups).abs()
    assert torch.allclose(error, distance.amin(-1), atol=1e-6)


def test_a_group_of_zeros_stays_zero() -> None:
    assert (round_to_normal_float(torch.zeros(2, 64), 4, 32) == 0).all()
