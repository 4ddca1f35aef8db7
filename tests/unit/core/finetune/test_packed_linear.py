"""A packed layer computes what its dense weight would, and keeps nothing dense."""

import pytest
import torch
from torch.nn.functional import linear

from apiq_core.finetune.packed.packed_linear import PackedLinear
from apiq_core.quantizer import QuantizedWeight, round_to_nearest


def stored(bits: int, group_size: int = 32) -> QuantizedWeight:
    weight = torch.randn(48, 64, generator=torch.Generator().manual_seed(bits))
    return round_to_nearest(weight, bits, group_size)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group_size", [32, -1])
def test_it_is_its_dense_layer(bits: int, group_size: int) -> None:
    weight = stored(bits, group_size)
    bias = torch.randn(48)
    layer = PackedLinear(weight, bias)
    assert torch.equal(layer.weight, weight.dequantize())
    x = torch.randn(5, 7, 64, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    out, wanted = layer(x), linear(y, weight.dequantize(), bias)
    torch.testing.assert_close(out, wanted)
    given = torch.randn_like(out)
    out.backward(given)
    wanted.backward(given)
    torch.testing.assert_close(x.grad, y.grad)


def test_its_gradient_is_right_to_the_second_order_of_a_difference() -> None:
    layer = PackedLinear(stored(3)).double()
    x = torch.randn(3, 64, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,), fast_mode=True)


def test_autocast_decides_the_dtype_of_the_product() -> None:
    layer = PackedLinear(stored(2))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(2, 64)).dtype == torch.bfloat16
    assert layer(torch.randn(2, 64)).dtype == torch.float32


def test_nothing_dense_is_kept_between_forward_and_backward() -> None:
    layer = PackedLinear(stored(2))
    kept: list[torch.Size] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(torch.randn(2, 64, requires_grad=True)).sum().backward()
    assert kept == []
    assert sum(p.numel() for p in layer.parameters()) == 0
    size_bytes = sum(buffer.nbytes for buffer in layer.buffers())
    assert size_bytes == 48 * 64 * 2 // 8 + 48 * 2 * (2 + 1)
