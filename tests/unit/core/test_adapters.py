"""What each adapter makes of a dequantized weight, what is stored of it, and where it starts."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from apiq_core.adapters import ADAPTERS, Adapter, to_dtype, trainable
from apiq_core.adapters.dora import Dora
from apiq_core.adapters.ia3 import Ia3
from apiq_core.adapters.lora import LowRank
from apiq_core.config import AdapterName, QuantizeConfig
from apiq_core.errors import UserError
from apiq_core.inspect import LinearShape, ModelFacts
from apiq_core.resolve import resolve

O, I, R = 6, 10, 2  # noqa: E741


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def q_and_low_rank(scaling: float = 1.0) -> tuple[Tensor, LowRank]:
    return random(O, I), LowRank(random(R, I, seed=1), random(O, R, seed=2), scaling)


def started(kind: type[Adapter], *, name: str = "self_attn.q_proj", has_bias: bool = False) -> Any:
    q, low_rank = q_and_low_rank()
    return kind.start(q, low_rank, name=name, has_bias=has_bias)


@pytest.mark.parametrize("kind", [LowRank, Dora])
def test_starts_at_q_plus_b_a(kind: type[Adapter]) -> None:
    q, low_rank = q_and_low_rank(scaling=8.0)
    adapter = kind.start(q, low_rank, name="self_attn.q_proj", has_bias=False)
    torch.testing.assert_close(adapter.apply(q), q + 8.0 * low_rank.b @ low_rank.a)


def test_ia3_starts_at_q() -> None:
    q, _ = q_and_low_rank()
    assert torch.equal(started(Ia3).apply(q), q)


def test_dora_takes_the_norm_of_the_quantized_weight() -> None:
    q, low_rank = q_and_low_rank()
    magnitude = torch.arange(1.0, O + 1)
    rows = Dora(low_rank, magnitude).apply(q)
    torch.testing.assert_close(rows.norm(dim=1), magnitude)
    v = q + low_rank.product()
    torch.testing.assert_close(rows / rows.norm(dim=1, keepdim=True), v / v.norm(dim=1)[:, None])


def test_dora_of_a_row_of_zeros_is_zero_and_trains() -> None:
    q = torch.zeros(O, I)
    low_rank = LowRank(torch.zeros(R, I), torch.zeros(O, R))
    adapter = trainable(Dora.start(q, low_rank, name="x", has_bias=False))
    adapter.apply(q).sum().backward()
    assert torch.equal(adapter.apply(q), q)
    for tensor in adapter.parameters():
        assert tensor.grad is not None and torch.isfinite(tensor.grad).all()


@pytest.mark.parametrize("is_all_zeros", [False, True])
def test_peft_reads_no_nan_in_a_row_of_zeros(is_all_zeros: bool) -> None:
    """It divides by the norm of what is stored; of the last row only fp32 holds any."""
    q, low_rank = q_and_low_rank()
    q[1], low_rank.b[1], q[5], low_rank.b[5] = 0, 0, 0, 1e-9
    if is_all_zeros:
        q, low_rank = 0 * q, low_rank.each(torch.zeros_like)
    tensors = Dora.start(q, low_rank, name="x", has_bias=False).stored().tensors()
    dora = Dora.read({name: tensor.float() for name, tensor in tensors.items()})
    v = q + dora.low_rank.product()
    read = (dora.magnitude / v.norm(dim=1)).unsqueeze(1) * v
    torch.testing.assert_close(read, q + low_rank.product(), rtol=0.01, atol=0.01)
    assert read[[1, 5]].abs().max() < 1e-6


@pytest.mark.parametrize(
    ("name", "has_bias", "shape"),
    [
        ("self_attn.q_proj", False, (O, 1)),
        ("self_attn.q_proj", True, (1, I)),
        ("mlp.down_proj", False, (1, I)),
    ],
)
def test_ia3_scales_the_output_or_the_input(
    name: str, has_bias: bool, shape: tuple[int, int]
) -> None:
    adapter = started(Ia3, name=name, has_bias=has_bias)
    assert adapter.scale.shape == shape
    doubled = adapter.each(lambda tensor: 2 * tensor)
    q, _ = q_and_low_rank()
    assert torch.equal(doubled.apply(q), 2 * q)


@pytest.mark.parametrize("name", list(ADAPTERS))
def test_what_is_stored_reads_back_as_the_same_weight(name: AdapterName) -> None:
    q, low_rank = q_and_low_rank(scaling=4.0)
    adapter = ADAPTERS[name].start(q, low_rank, name="self_attn.q_proj", has_bias=False)
    adapter = adapter.each(lambda tensor: 1.5 * tensor)  # away from the start
    tensors = adapter.stored().tensors()
    assert set(tensors) == set(ADAPTERS[name].SUFFIXES)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    again = to_dtype(ADAPTERS[name].read(tensors), torch.float32)
    torch.testing.assert_close(again.apply(q), adapter.apply(q), rtol=0.01, atol=0.02)


@pytest.mark.parametrize("name", list(ADAPTERS))
def test_every_tensor_is_trained_and_the_start_is_not(name: AdapterName) -> None:
    q, low_rank = q_and_low_rank()
    start = ADAPTERS[name].start(q, low_rank, name="self_attn.q_proj", has_bias=False)
    adapter = trainable(start)
    adapter.apply(q).square().sum().backward()
    assert len(adapter.parameters()) == len(start.tensors())
    assert all(tensor.grad is not None for tensor in adapter.parameters())
    assert not any(tensor.requires_grad for tensor in start.parameters())


FACTS = ModelFacts(
    model_type="llama",
    architecture="LlamaForCausalLM",
    max_length=512,
    block_count=2,
    linears=(LinearShape("self_attn.q_proj", 64, 64), LinearShape("mlp.down_proj", 128, 64)),
    parameter_count=100_000,
    size_bytes=200_000,
)


@pytest.mark.parametrize(
    ("fields", "code", "said"),
    [
        (
            {"adapter": "dora", "method": "apiq-lw"},
            "illegal_adapter",
            "method apiq-bw, not apiq-lw",
        ),
        ({"adapter": "ia3", "method": "rtn"}, "illegal_adapter", "not rtn; legal here: lora"),
        ({"adapter": "ia3", "rank": 4}, "illegal_rank", "ia3 has no rank"),
        ({"adapter": "dora", "rank": 0}, "illegal_rank", "rank of 1 or more"),
        ({"method": "gptq", "rank": 4}, "illegal_rank", "rank is 4; method gptq has no adapter"),
        (
            {"method": "apiq-lw", "training": {"epochs": 3}},
            "no_gradient_phase",
            "apiq-lw with recipe closed-form trains nothing; leave out training.epochs, or take "
            "recipe paper",
        ),
        ({"method": "rtn", "training": {"epochs": 3}}, "no_gradient_phase", "method rtn trains"),
    ],
)
def test_what_an_adapter_does_not_go_with(fields: dict[str, Any], code: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve(QuantizeConfig.model_validate({"bits": 2} | fields), FACTS)
    assert caught.value.code == code
    assert said in caught.value.message


def test_ranks_of_adapters() -> None:
    ranks = {name: resolve(QuantizeConfig(bits=2, adapter=name), FACTS).rank for name in ADAPTERS}
    assert ranks["ia3"] == 0
    assert ranks["lora"] == ranks["dora"] and ranks["lora"]


def test_an_adapter_that_is_none() -> None:
    with pytest.raises(ValidationError, match="'lora', 'dora' or 'ia3'"):
        QuantizeConfig.model_validate({"bits": 2, "adapter": "qlora"})
