"""The closed form against what brute force gives on small random problems."""

import pytest
import torch

from apiq_core.closed_form.gptq import gptq, inverse_factor
from apiq_core.closed_form.gram import Grams
from apiq_core.closed_form.lowrank import exact_low_rank
from apiq_core.closed_form.warm_start import quantize_layers
from apiq_core.config import LayerSpec
from apiq_core.quantizer import round_to_nearest


def correlated(tokens: int, width: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator)
    return torch.randn(tokens, width, generator=generator) @ mix / width**0.5


def damped_gram(x: torch.Tensor) -> torch.Tensor:
    gram = x.T @ x / len(x)
    return gram + 1e-2 * gram.diagonal().mean() * torch.eye(len(gram))


@pytest.mark.parametrize("shape", [(32, 64), (96, 64), (64, 64)])
def test_exact_low_rank_equals_the_svd_in_the_metric_of_the_gram(shape: tuple[int, int]) -> None:
    d_out, d_in = shape
    difference = torch.randn(d_out, d_in)
    gram = damped_gram(correlated(400, d_in, seed=1))
    lower = torch.linalg.cholesky(gram)
    singular = torch.linalg.svdvals(difference @ lower)
    for rank in (1, 8):
        fitted = exact_low_rank(difference, gram, rank)
        loss = ((difference - fitted.product()) @ lower).square().sum()
        assert loss.item() == pytest.approx(singular[rank:].square().sum().item(), rel=1e-3)
        assert fitted.a.norm(dim=1).tolist() == pytest.approx(fitted.b.norm(dim=0).tolist(), 1e-3)


def test_low_rank_of_nothing_left_is_finite() -> None:
    fitted = exact_low_rank(torch.zeros(32, 64), torch.eye(64), 4)
    assert torch.isfinite(fitted.stored().product().float()).all()


@pytest.mark.parametrize("group_size", [32, 64, -1])
@pytest.mark.parametrize("width", [64, 192, 256])
def test_gptq_beats_rtn_on_the_layer_loss(width: int, group_size: int) -> None:
    x = correlated(500, width, seed=2)
    gram = damped_gram(x)
    weight = torch.randn(48, width, generator=torch.Generator().manual_seed(3))
    rounded = gptq(weight, inverse_factor(gram), 3, group_size).dequantize()
    nearest = round_to_nearest(weight, 3, group_size).dequantize()

    def loss(q: torch.Tensor) -> float:
        return float((x @ (weight - q).T).square().sum())

    assert loss(rounded) < 0.7 * loss(nearest)


def test_shifted_target_corrects_what_earlier_layers_lost() -> None:
    x = correlated(2000, 64, seed=4)
    xq = x + 0.3 * correlated(2000, 64, seed=5)
    weight = torch.randn(32, 64)
    h, k = xq.T @ xq / len(x), xq.T @ x / len(x)
    grams = Grams(h + 1e-4 * torch.eye(64), k - h)
    target = grams.target(weight, strength=1.0)
    wanted = x @ weight.T
    assert (wanted - xq @ target.T).norm() < 0.9 * (wanted - xq @ weight.T).norm()
    # with Xq = X the target is W itself, whatever the damping
    same = Grams(h + torch.eye(64), torch.zeros(64, 64))
    assert torch.equal(same.target(weight, strength=1.0), weight)


def test_gptq_without_clipping_is_its_definition_column_by_column() -> None:
    """Optimal brain quantization in fixed order: remove a column from H^-1 once it is rounded."""
    gram = damped_gram(correlated(500, 64, seed=8)).double()
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(9))
    left, inverse = weight.double(), torch.linalg.inv(gram)
    rounded = torch.empty_like(left)
    for i in range(64):
        if i % 32 == 0:
            group = left[:, i : i + 32]
            low, high = group.amin(1).clamp(max=0), group.amax(1).clamp(min=0)
            scale = ((high - low) / 7).half().double()
            zero = (-low / scale).round()
        code = ((left[:, i] / scale).round() + zero).clamp(0, 7)
        rounded[:, i] = scale * (code - zero)
        error = (left[:, i] - rounded[:, i]) / inverse[i, i]
        left = left - error.outer(inverse[i])
        inverse = inverse - inverse[:, i].outer(inverse[i]) / inverse[i, i]
    found = gptq(weight, inverse_factor(gram.float()), 3, 32, clip=False).dequantize()
    same = (found - rounded).abs() < 1e-3 * rounded.abs().max()
    assert same.float().mean() > 0.99  # a tie that fp32 decides otherwise may change a few


def test_adapter_lowers_the_layer_loss_and_larger_ranks_lower_it_further() -> None:
    x = correlated(1000, 64, seed=6)
    gram = damped_gram(x)
    weight = torch.randn(96, 64, generator=torch.Generator().manual_seed(7))
    losses = []
    for rank in (0, 4, 16):
        spec = LayerSpec(bits=2, group_size=32, rank=rank)
        layer = quantize_layers({"w": weight}, Grams(gram, torch.zeros(64, 64)), {"w": spec})["w"]
        losses.append(float((x @ (weight - layer.merged(torch.float32)).T).square().sum()))
    assert losses[0] > 1.1 * losses[1] > 1.1 * losses[2]
