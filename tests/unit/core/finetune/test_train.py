"""What is told of a run's end."""

from types import SimpleNamespace
from typing import Any

import pytest

from apiq_core.finetune.checkpoint import Point, State
from apiq_core.finetune.train import _left_s


@pytest.mark.parametrize(
    ("step", "seconds"),
    [(7, 13 * 3 + 4 * 5), (8, 12 * 3 + 4 * 5), (9, 11 * 3 + 3 * 5), (20, 10)],
)
def test_scores_to_come_are_counted(step: int, seconds: float) -> None:
    """One at 8, 16 and 20 steps, unless it was, and one of what is stored."""
    run: Any = SimpleNamespace(evaluate_every=lambda: 8)
    scored = Point(step=0, train_loss=None, validation_loss=1.0, lr=0.0, tokens_per_s=None)
    state = State(step=step, micro_batch_size=1, points=[scored], train_s=3.0 * step, score_s=5.0)
    assert _left_s(run, state, 20) == seconds
