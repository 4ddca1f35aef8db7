"""What a plan is made of: residuals, sizes, and what an error costs the network."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.nn.functional import kl_div, log_softmax

from apiq_core.budget.plan import (
    MIXED_ZERO_POINT_BITS,
    bits_per_weight,
    plan_from_text,
    plan_to_text,
    uniform_plan,
)
from apiq_core.budget.planning import group_options, layer_losses, make_plan
from apiq_core.budget.sensitivity import sensitivities
from apiq_core.checkpoint import Checkpoint
from apiq_core.closed_form.gptq import gptq, inverse_factor
from apiq_core.closed_form.lowrank import exact_low_rank, residuals
from apiq_core.config import LayerSpec, QuantizeConfig
from apiq_core.errors import UserError
from apiq_core.inspect import LinearShape, ModelFacts, inspect_model
from apiq_core.resolve import packable_widths, resolve
from apiq_core.skeleton import Skeleton, layer_inputs, run_block
from tests.tiny_models import make_tiny

CPU = torch.device("cpu")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gram_of(width: int) -> torch.Tensor:
    x = random(4 * width, width, seed=7) @ random(width, width, seed=8)
    return x.T @ x / len(x) + 0.01 * torch.eye(width)


@pytest.mark.parametrize("shape", [(24, 48), (48, 24), (512, 600)])
def test_residuals_are_what_the_exact_factors_leave(shape: tuple[int, int]) -> None:
    difference, gram = random(*shape), gram_of(shape[1])
    lower = torch.linalg.cholesky(gram)
    ranks = [0, 1, 4, 16]
    for rank, loss in zip(ranks, residuals(difference, gram, ranks), strict=True):
        left = (difference - exact_low_rank(difference, gram, rank).product()) @ lower
        # each from a subspace of its own, of which neither is iterated to the end
        assert loss == pytest.approx(float(left.square().sum()), rel=5e-3)


def test_losses_fall_with_bits_and_rank_and_are_those_of_gptq() -> None:
    weights, gram = {"q": random(32, 64), "k": random(16, 64, seed=1)}, gram_of(64)
    losses = layer_losses(weights, gram, (2, 3, 4), 32)
    for layer in losses.values():
        assert layer[2, 0] > layer[3, 0] > layer[4, 0]
        assert layer[2, 0] > layer[2, 1] > layer[2, 8] > layer[2, 16]
    rounded = gptq(weights["k"], inverse_factor(gram), 3, 32).dequantize()
    wrong = weights["k"] - rounded
    assert losses["k"][3, 0] == pytest.approx(float((wrong @ gram @ wrong.T).trace()), rel=1e-3)
    assert max(rank for _, rank in losses["k"]) == 16  # no rank above the smaller side


def test_options_share_a_width_and_count_every_byte() -> None:
    shapes = {"q": LinearShape("q", 64, 32), "k": LinearShape("k", 64, 32)}
    losses = {
        "q": {(2, 0): 4.0, (2, 8): 3.0, (4, 0): 1.0},
        "k": {(2, 0): 40.0, (2, 8): 30.0, (4, 0): 10.0},
    }
    options = group_options(losses, shapes, 32)
    assert len(options) == 4 + 1
    found = next(option for option in options if option.choice["k"] == LayerSpec(2, 32, 8))
    assert found.choice["q"].bits == 2
    codes, groups, factors = 64 * 32 * 2 / 8, 32 * 2 * (2 + 1), 2 * 8 * (64 + 32)
    rank_of_q = found.choice["q"].rank
    assert found.size_bytes == 2 * codes + 2 * groups + factors * (1 + rank_of_q // 8)
    assert found.loss == 30.0 + {0: 4.0, 8: 3.0}[rank_of_q]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("models") / "tiny", layers=3)


def embedded(model_dir: Path, source: Checkpoint) -> tuple[Skeleton, torch.Tensor, Any]:
    skeleton = Skeleton(model_dir, CPU, torch.float32)
    tokens = torch.randint(2, 500, (8, 32), generator=torch.Generator().manual_seed(3))
    hidden, calls = skeleton.embed(source, tokens)
    return skeleton, hidden, calls


def test_sensitivity_foretells_what_noise_at_a_layer_costs(tiny: Path) -> None:
    """KL after adding noise of a known size to one layer's weight, over all of them."""
    ratios = []
    with Checkpoint(tiny) as source:
        skeleton, hidden, calls = embedded(tiny, source)
        found = sensitivities(skeleton, source, hidden, calls, seed=0, check_stop=lambda: None)
        assert [set(layers) for layers in found] == [set(skeleton.linears)] * 3

        def log_p(changed: tuple[int, str] | None) -> tuple[torch.Tensor, float]:
            states, error = hidden, math.nan
            for index, module in enumerate(skeleton.blocks):
                weights = skeleton.load_block(source, index)
                if changed is not None and changed[0] == index:
                    name = f"{changed[1]}.weight"
                    noise = 0.02 * random(*weights[name].shape, seed=5)
                    x = layer_inputs(module, weights, states, calls[index])[changed[1]]
                    error = float((x @ noise.T).square().sum(-1).mean())
                    weights[name] = weights[name] + noise
                states = run_block(module, weights, states, calls[index])
            return log_softmax(skeleton.head(source).logits(states), -1), error

        with torch.no_grad():
            reference, _ = log_p(None)
            for index in range(3):
                for name in skeleton.linears:
                    changed, error = log_p((index, name))
                    kl = kl_div(changed, reference, reduction="sum", log_target=True)
                    measured = float(kl) / reference[..., 0].numel()
                    ratios.append(measured / (found[index][name] * error))
    # single draws of noise, whose direction the estimate averages over
    ratios.sort()
    assert 0.8 < ratios[len(ratios) // 2] < 1.25, ratios
    assert ratios[0] > 0.5 and ratios[-1] < 5, ratios


@pytest.mark.parametrize("budget", [2.9, 3.5, 5.0])
def test_a_plan_fits_its_budget_and_is_the_same_again(budget: float, tiny: Path) -> None:
    facts = inspect_model(tiny)
    config = resolve(QuantizeConfig(bits_per_weight=budget), facts)
    plans = []
    with Checkpoint(tiny) as source:
        for _ in range(2):
            skeleton, hidden, calls = embedded(tiny, source)
            before = hidden.clone()
            plans.append(
                make_plan(skeleton, source, hidden, calls, config, facts, check_stop=lambda: None)
            )
            assert torch.equal(hidden, before)  # what is calibrated on is not moved on
    assert plan_to_text(plans[0]) == plan_to_text(plans[1])
    plan = plan_from_text(plan_to_text(plans[0]))
    factors = sum(
        16 * specs[layer.name].rank * (layer.d_in + layer.d_out)
        for specs in plan
        for layer in facts.linears
    )
    total = (
        bits_per_weight(plan, facts, MIXED_ZERO_POINT_BITS) + factors / facts.quantized_weight_count
    )
    assert budget - 0.15 < total <= budget
    for specs in plan:
        assert len({specs[f"self_attn.{name}_proj"].bits for name in "qkv"}) == 1
        assert len({specs[f"mlp.{name}_proj"].bits for name in ("gate", "up")}) == 1
    assert len({spec for specs in plan for spec in specs.values()}) > 1


FACTS = ModelFacts(
    model_type="llama",
    architecture="LlamaForCausalLM",
    max_length=512,
    block_count=2,
    linears=(LinearShape("self_attn.q_proj", 64, 64), LinearShape("mlp.down_proj", 128, 48)),
    parameter_count=100_000,
    size_bytes=200_000,
)


def test_widths_that_a_layer_cannot_be_packed_at_are_no_candidates() -> None:
    assert packable_widths(FACTS) == (2, 4, 8)  # 48 outputs are no multiple of 32


def test_uniform_plans_count_packed_zero_points() -> None:
    config = resolve(QuantizeConfig(bits=2, group_size=64, rank=4), FACTS)
    plan = uniform_plan(config, FACTS)
    assert bits_per_weight(plan, FACTS) == 2 + 18 / 64
    assert bits_per_weight(plan, FACTS, MIXED_ZERO_POINT_BITS) == 2 + 24 / 64


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "bits_per_weight"),
        ({"bits": 2, "bits_per_weight": 2.5}, "bits_per_weight"),
        ({"bits_per_weight": 2.5, "rank": 4}, "rank"),
        ({"bits_per_weight": 1.9}, "bits_per_weight"),
        ({"bits_per_weight": 8.1}, "bits_per_weight"),
    ],
)
def test_one_clear_error(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        QuantizeConfig.model_validate(fields)
    (error,) = caught.value.errors()
    assert error["loc"] == (field,)


@pytest.mark.parametrize(
    ("fields", "code", "said"),
    [
        ({"bits_per_weight": 2.3, "group_size": 64}, "budget_too_small", "take 2.3750"),
        ({"method": "rtn"}, "illegal_method", "apiq-bw, apiq-lw"),
        ({"adapter": "ia3"}, "illegal_adapter", "legal: lora"),
        ({"group_size": -1}, "illegal_group_size", "group_size is -1, one"),
    ],
)
def test_what_a_budget_does_not_go_with(fields: dict[str, Any], code: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve(QuantizeConfig.model_validate({"bits_per_weight": 3.0} | fields), FACTS)
    assert caught.value.code == code
    assert said in caught.value.message


def test_a_resolved_budget_may_be_asked_for_again() -> None:
    config = resolve(QuantizeConfig(bits_per_weight=3.0), FACTS)
    assert QuantizeConfig.model_validate(config.model_dump(mode="json")) == config
