"""`recipe: paper` of `apiq-bw` against an implementation that shares nothing with it."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from apiq_core.block import Block
from apiq_core.config import QuantizeConfig, Training
from apiq_core.gradient.clipping_student import LOGIT_START, ClippingStudent
from apiq_core.gradient.optimise import train_block
from apiq_core.methods import apiq_bw
from apiq_core.training_defaults import TRAINING_DEFAULTS
from tests.unit.core.gradient import paper_oracle
from tests.unit.core.small_block import small_block

EPOCHS = 5


def with_weights(block: Block) -> nn.Module:
    module = copy.deepcopy(block.module).to_empty(device="cpu")
    module.load_state_dict(dict(block.teacher))
    return module.eval()


def paper_config(**fields: Any) -> QuantizeConfig:
    training: Training = TRAINING_DEFAULTS["paper"].model_copy(update=fields)
    config = QuantizeConfig.model_validate({"bits": 2, "recipe": "paper"})
    return config.model_copy(update={"training": training})


def student_of(block: Block, config: QuantizeConfig) -> ClippingStudent:
    with torch.random.fork_rng():
        torch.manual_seed(config.seed + block.index)
        return ClippingStudent(block)  # draws A as the method does


@torch.no_grad()
def away(one: Tensor, other: Tensor, start: float) -> float:
    """How far `one` is from `other`, relative to how far training moved that."""
    return float((one - other).norm() / (other - start).norm())


@pytest.mark.parametrize("bits", [2, 3])
def test_training_agrees_with_the_oracle(bits: int, tmp_path: Path) -> None:
    block = small_block(tmp_path, bits=bits, rank=4)
    config = paper_config(epochs=EPOCHS)
    student = student_of(block, config)
    train = slice(block.stream.train_count)
    losses, trained = paper_oracle.train_block(
        with_weights(block),
        block.call,
        block.stream.x[train],
        block.stream.xq[train],
        {name: layer.adapter.parameters()[0].detach() for name, layer in student.layers.items()},
        bits=bits,
        group_size=32,
        epochs=EPOCHS,
    )

    result = train_block(
        block, student, config.training, apiq_bw.PAPER, seed=0, check_stop=lambda: None
    )

    assert losses[-1] < 0.9 * losses[0]  # something was learned
    assert result.train_loss == pytest.approx(losses, rel=0.01)
    # the loss hardly feels the decay of the clipping; the logits show it, at 0.4 without decay
    for name, layer in student.layers.items():
        expected = trained.get_submodule(name)
        assert isinstance(expected, paper_oracle.FakeQuantLinear)
        assert away(layer.gamma, expected.gamma.squeeze(1).T, LOGIT_START) < 0.05, name
        assert away(layer.beta, expected.beta.squeeze(1).T, LOGIT_START) < 0.05, name
        assert away(layer.adapter.parameters()[1], expected.b, 0.0) < 0.1, name


def test_the_method_is_that_training(tmp_path: Path) -> None:
    block = small_block(tmp_path, rank=4)
    config = paper_config(epochs=1)
    student = student_of(block, config)
    direct = train_block(
        block, student, config.training, apiq_bw.PAPER, seed=0, check_stop=lambda: None
    )

    result = apiq_bw.quantize_block(block, config, lambda: None)

    assert result.train_loss == direct.train_loss
    assert result.held_out_loss == direct.held_out_loss
