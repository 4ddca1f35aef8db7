"""L4Q's layer against its definition, written out for autograd with straight-through estimators."""

import pytest
import torch
from torch import Tensor, nn

from apiq_core.finetune.methods import l4q_linear
from apiq_core.finetune.methods.l4q_linear import L4QLinear
from apiq_core.finetune.packed.packed_linear import PackedLinear
from apiq_core.quantizer import (
    affine_parameters,
    extrema,
    round_scale,
    round_to_nearest,
    straight_through,
    to_groups,
)

D_OUT, D_IN, RANK = 24, 64, 4


def layer(bits: int, group_size: int, *, is_packed: bool = False) -> L4QLinear:
    """In fp64, off its start: scales so small that weights are clipped, zero points moved."""
    generator = torch.Generator().manual_seed(bits)

    def drawn(*shape: int, scale: float = 1.0) -> Tensor:
        return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)

    dense = nn.Linear(D_IN, D_OUT).double()
    dense.weight.data = drawn(D_OUT, D_IN)
    scales, zeros = affine_parameters(*extrema(to_groups(dense.weight.data, group_size)), bits)
    base: nn.Linear = dense
    if is_packed:
        bias = dense.bias.detach()
        base = PackedLinear(round_to_nearest(dense.weight.data.float(), bits, group_size), bias)
    base.requires_grad_(False)
    factors = drawn(RANK, D_IN), drawn(D_OUT, RANK, scale=0.1)
    made = L4QLinear(base, scales.half(), zeros.to(torch.uint8), bits, *factors)
    made.log_scale_factor.data = drawn(*scales.shape, scale=0.2) - 0.4
    made.zero_point_shift.data = drawn(*scales.shape, scale=0.4)
    return made


def reference(made: L4QLinear, x: Tensor) -> Tensor:
    """Equations of the paper, every operation left to autograd."""
    groups = made.start_scales.shape[1]
    w = made.base.weight.double() + made.b @ made.a
    exact = made.start_scales.double() * made.log_scale_factor.exp()
    s = straight_through(exact, round_scale(exact.detach())).unsqueeze(2)
    shifted = made.start_zero_points + made.zero_point_shift
    rounded = shifted.detach().round().clamp(0, made.levels)
    offset = -s * straight_through(shifted, rounded).unsqueeze(2)  # the paper's b
    clamped = ((w.unflatten(1, (groups, -1)) - offset) / s).clamp(0, made.levels)
    wq = s * straight_through(clamped, clamped.detach().round()) + offset
    return nn.functional.linear(x, wq.flatten(1), made.base.bias)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group_size", [32, -1])
@pytest.mark.parametrize("is_packed", [False, True])
def test_its_gradients_are_those_of_the_definition(
    bits: int, group_size: int, is_packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(l4q_linear, "PART_WEIGHTS", 7 * D_IN)  # parts of unequal size
    made = layer(bits, group_size, is_packed=is_packed)
    x = torch.randn(3, 5, D_IN, dtype=torch.float64, requires_grad=True)
    wanted_x = x.detach().clone().requires_grad_()
    wanted = reference(made, wanted_x)
    given = torch.randn_like(wanted)
    wanted.backward(given)
    gradients = {name: p.grad for name, p in made.named_parameters() if p.requires_grad}
    made.zero_grad(set_to_none=True)
    out = made(x)
    torch.testing.assert_close(out, wanted)
    out.backward(given)
    torch.testing.assert_close(x.grad, wanted_x.grad)
    assert set(gradients) == {"a", "b", "log_scale_factor", "zero_point_shift"}
    for name, parameter in made.named_parameters():
        if parameter.requires_grad:
            gradient = gradients[name]
            assert gradient is not None and gradient.abs().max() > 0
            torch.testing.assert_close(parameter.grad, gradient, msg=name)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_what_is_stored_is_what_was_computed_with(bits: int) -> None:
    made = layer(bits, 32).float()
    x = torch.randn(5, D_IN)
    packed = made.packed()
    assert isinstance(packed, PackedLinear)
    assert torch.equal(made(x), packed(x))
    codes = packed.integers().codes
    assert codes.min() == 0 and codes.max() == made.levels


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_on_the_grid_of_its_base_it_changes_nothing_yet(bits: int) -> None:
    weight = torch.randn(D_OUT, D_IN, generator=torch.Generator().manual_seed(bits))
    base = PackedLinear(round_to_nearest(weight, bits, 32))
    integers = base.integers()
    a, b = torch.randn(RANK, D_IN), torch.zeros(D_OUT, RANK)
    made = L4QLinear(base, integers.scales, integers.zero_points, bits, a, b)
    assert torch.equal(made.stored().codes, integers.codes)
    assert torch.equal(made.stored().scales, integers.scales)
    assert torch.equal(made.stored().zero_points, integers.zero_points)


def test_a_zero_point_stays_in_range_and_comes_back() -> None:
    made = layer(2, 32)
    made.zero_point_shift.data.fill_(100)
    assert made.stored().zero_points.unique().tolist() == [3]
    made(torch.randn(4, D_IN, dtype=torch.float64)).square().sum().backward()
    assert made.zero_point_shift.grad is not None and made.zero_point_shift.grad.abs().max() > 0


def test_only_small_tensors_are_kept_between_forward_and_backward() -> None:
    made = layer(2, 32, is_packed=True).float()
    kept: list[torch.Size] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        made(torch.randn(2, D_IN, requires_grad=True)).sum().backward()
    assert {(2, D_IN), (RANK, D_IN), (D_OUT, RANK)} <= set(kept)
    assert max(shape.numel() for shape in kept) < D_OUT * D_IN
    assert made.a.grad is not None and made.a.grad.shape == (RANK, D_IN)


def test_under_autocast_the_codes_are_those_that_are_stored() -> None:
    made = layer(3, 32).float()
    x = torch.randn(6, D_IN)
    with torch.autocast("cpu", torch.bfloat16):
        out = made(x)
        assert torch.equal(out, made.packed()(x))
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert made.b.grad is not None and made.b.grad.dtype == torch.float32
