"""The order of training is a function of the seed, and every row comes once an epoch."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from apiq_core.finetune.config import FinetuneConfig
from apiq_core.finetune.data.batches import IGNORED, epoch_batches, pad, split, token_batches
from apiq_core.finetune.data.examples import Example
from apiq_core.finetune.train import lr_at

CPU = torch.device("cpu")


def of_lengths(*lengths: int) -> list[Example]:
    return [Example(tuple(range(n)), (True,) * n) for n in lengths]


@given(
    st.lists(st.integers(2, 50), min_size=2, max_size=80), st.integers(1, 9), st.integers(0, 2**32)
)
def test_every_member_once(lengths: list[int], batch_size: int, seed: int) -> None:
    examples = of_lengths(*lengths)
    members, held_out = split(examples, 0.3, seed)
    assert sorted(members + held_out) == list(range(len(examples)))
    assert members and held_out
    batches = epoch_batches(examples, members, batch_size, seed, epoch=2)
    assert sorted(i for batch in batches for i in batch) == members
    assert len(batches) == len(epoch_batches(examples, members, batch_size, seed, epoch=5))
    assert max(map(len, batches)) <= batch_size
    assert batches == epoch_batches(examples, members, batch_size, seed, epoch=2)


def test_rows_of_similar_length_go_together() -> None:
    examples = of_lengths(*(range(2, 66)))
    wasted = 0
    for batch in epoch_batches(examples, list(range(64)), 4, seed=1, epoch=0):
        lengths = [len(examples[i]) for i in batch]
        wasted += sum(max(lengths) - n for n in lengths)
    assert wasted == 16 * (0 + 1 + 2 + 3)


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 120))
def test_batches_keep_to_their_tokens(lengths: list[int], budget: int) -> None:
    batches = token_batches(range(len(lengths)), lengths.__getitem__, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = len(batch) * max(lengths[i] for i in batch)
        assert padded <= budget or len(batch) == 1
    for one, other in pairwise(batches):  # no batch has room for the next row
        assert (len(one) + 1) * lengths[one[0]] > budget
        assert lengths[one[-1]] >= lengths[other[0]]


def test_another_epoch_is_another_order() -> None:
    examples = of_lengths(*[5] * 40)
    orders = [epoch_batches(examples, list(range(40)), 8, 0, epoch) for epoch in range(3)]
    assert orders[0] != orders[1] != orders[2]


def test_padding_carries_no_loss() -> None:
    short = Example((7, 8), (False, True))
    tokens, labels = pad([short, *of_lengths(3)], 64, CPU)
    assert tokens.tolist() == [[7, 8] + 14 * [0], [0, 1, 2] + 13 * [0]]
    assert labels.tolist() == [[IGNORED, 8] + 14 * [IGNORED], [0, 1, 2] + 13 * [IGNORED]]


def test_lengths_are_few() -> None:
    lengths = {pad(of_lengths(n), 64, CPU)[0].shape[1] for n in range(1, 49)}
    assert lengths == {16, 32, 48}


def test_nothing_is_padded_beyond_the_context() -> None:
    assert [pad(of_lengths(n), 40, CPU)[0].shape[1] for n in (17, 33, 40)] == [32, 40, 40]


def test_one_example_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="one example"):
        split(of_lengths(3), 0.5, 0)


def test_the_first_that_are_held_out_are_a_sample_of_the_file() -> None:
    _, held_out = split(of_lengths(*[5] * 400), 0.5, seed=0)
    first = held_out[:50]
    assert first != sorted(first)
    assert sum(i >= 200 for i in first) in range(15, 36)  # as many of either half
    assert held_out == split(of_lengths(*[5] * 400), 0.5, seed=0)[1]


def test_the_rate_rises_then_falls_to_zero() -> None:
    config = FinetuneConfig(lr=1.0, warmup_fraction=0.1)
    rates = [lr_at(step, 100, config) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[10] == 1.0 and rates[-1] < 0.001
    assert lr_at(0, 1, FinetuneConfig(lr=1.0)) == 1.0
