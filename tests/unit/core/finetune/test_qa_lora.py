"""QA-LoRA's A on group sums, and the LoRA adapter that it equals."""

import torch
from torch.nn.functional import linear

from apiq_core.finetune.methods.qa_lora import GroupedLinear

RANK, GROUPS, GROUP_SIZE = 3, 4, 32


def test_it_equals_the_repeated_a() -> None:
    a = torch.randn(RANK, GROUPS * GROUP_SIZE, dtype=torch.float64)
    layer = GroupedLinear(a, GROUP_SIZE)
    assert layer.weight.shape == (RANK, GROUPS)
    x = torch.randn(2, 5, GROUPS * GROUP_SIZE, dtype=torch.float64)
    torch.testing.assert_close(layer(x), linear(x, layer.repeated()))


def test_what_it_adds_is_one_number_a_group() -> None:
    """So fractional zero points could take it: s (q - z) + d = s (q - (z - d / s))."""
    layer = GroupedLinear(torch.randn(RANK, GROUPS * GROUP_SIZE), GROUP_SIZE)
    added = (torch.randn(7, RANK) @ layer.repeated()).unflatten(1, (GROUPS, GROUP_SIZE))
    assert torch.equal(added, added[..., :1].expand_as(added))
    assert added[..., 0].unique().numel() == 7 * GROUPS
