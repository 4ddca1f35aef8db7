"""Losses that are no numbers, and memory that runs out."""

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import apiq_core.finetune.run as running
import apiq_core.finetune.train as training
from apiq_core.errors import InfraError, Stopped, UserError
from apiq_core.events import Event
from apiq_core.finetune import scoring
from apiq_core.finetune.loss import summed_loss
from apiq_core.finetune.scoring import mean_loss
from apiq_core.layout import training_checkpoint
from tests.integration.core.finetune.support import config, run

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers")


def failing(at: list[int], error: Exception | None) -> Callable[..., tuple[torch.Tensor, int]]:
    """`summed_loss`, whose calls with these numbers, while training, go wrong."""
    calls = [0]

    def failing_loss(model: Any, *tensors: torch.Tensor) -> tuple[torch.Tensor, int]:
        loss, count = summed_loss(model, *tensors)
        if model.training:
            calls[0] += 1
            if calls[0] in at:
                if error is not None:
                    raise error
                loss = loss * math.nan
        return loss, count

    return failing_loss


def test_a_loss_that_is_no_number_goes_back_at_half_the_rate(
    base: Path, sums: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "summed_loss", failing([11], None))
    events: list[Event] = []
    report = run(base, sums, tmp_path, config(checkpoint_every=4), on_event=events.append)
    (warning,) = [e.data for e in events if e.type == "warning"]
    assert warning["code"] == "diverged"
    assert "step 6 was not finite; back to step 4, at half" in warning["message"]
    steps = [e.data["done"] for e in events if e.type == "progress"]
    assert steps == [1, 2, 3, 4, 5, 5, 6, *range(7, 17)]
    assert report.validation_loss.after < report.validation_loss.before


def test_a_loss_that_stays_no_number_fails(
    base: Path, sums: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "summed_loss", failing(list(range(1, 100)), None))
    events: list[Event] = []
    with pytest.raises(UserError) as caught:
        run(base, sums, tmp_path, config(), on_event=events.append)
    assert (caught.value.code, caught.value.param) == ("diverged", "lr")
    assert len([e for e in events if e.type == "warning"]) == 2


@pytest.fixture
def updates(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, float]]:
    """Steps and learning rates as they come; the sixth step, the first time, leaves no sense."""
    seen: list[tuple[int, float]] = []
    original = training._update

    def update(*arguments: Any) -> None:
        _, state, optimizer, _ = arguments
        original(*arguments)
        (group,) = optimizer.param_groups
        seen.append((state.step, group["lr"]))
        if [step for step, _ in seen].count(6) == 1 and state.step == 6:
            with torch.no_grad():
                group["params"][0].fill_(3e38)  # finite, and what is computed with it is not

    monkeypatch.setattr(training, "_update", update)
    return seen


OFTEN = {"checkpoint_every": 2, "evaluate_every": 8}


def test_a_score_alone_makes_nothing_to_go_back_to(
    base: Path, sums: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step 8 has a finite loss on held-out rows; its gradients have none, the first time."""
    monkeypatch.setattr(training, "summed_loss", failing([17], None))
    events: list[Event] = []
    run(base, sums, tmp_path, config(evaluate_every=4), on_event=events.append)
    (warning,) = [e.data for e in events if e.type == "warning"]
    assert "step 9 was not finite; back to step 4, at half" in warning["message"]


def test_what_is_gone_back_to_has_a_finite_loss(
    base: Path, sums: Path, tmp_path: Path, updates: list[tuple[int, float]]
) -> None:
    """Step 6 is due to be kept, and not to be scored."""
    events: list[Event] = []
    settings = config(**OFTEN)
    report = run(base, sums, tmp_path, settings, on_event=events.append)
    (warning,) = [e.data for e in events if e.type == "warning"]
    assert "step 7 was not finite; back to step 4, at half" in warning["message"]
    assert [step for step, _ in updates] == [1, 2, 3, 4, 5, 6, *range(5, 17)]
    lrs = dict(updates[6:])
    assert lrs[7] == pytest.approx(0.5 * training.lr_at(6, 16, settings))
    assert report.validation_loss.after < report.validation_loss.before


def test_a_stopped_run_keeps_nothing_whose_loss_is_not_finite(
    base: Path, sums: Path, tmp_path: Path, updates: list[tuple[int, float]]
) -> None:
    events: list[Event] = []
    with pytest.raises(Stopped):
        run(
            *(base, sums, tmp_path, config(**OFTEN)),
            should_stop=lambda: bool(updates) and updates[-1][0] == 6,
            on_event=events.append,
        )
    assert [e.data["step"] for e in events if e.type == "checkpoint"] == [0, 2, 4]
    events.clear()
    run(base, sums, tmp_path, config(**OFTEN), on_event=events.append)
    assert [e.data["step"] for e in events if e.type == "resumed"] == [4]


def scored_as(changes: dict[int, Callable[[float], float]]) -> Callable[..., float]:
    """`mean_loss`, whose calls with these numbers, from 1, give back something else."""
    calls = itertools.count(1)

    def changed(run: running.Run, members: Sequence[int]) -> float:
        change = changes.get(next(calls))
        loss = mean_loss(run, members)
        return loss if change is None else change(loss)

    return changed


def no_number(loss: float) -> float:
    return math.nan


def test_a_held_out_loss_that_is_no_number_goes_back_at_half_the_rate(
    base: Path, sums: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "mean_loss", scored_as({3: no_number}))
    events: list[Event] = []
    report = run(base, sums, tmp_path, config(evaluate_every=4), on_event=events.append)
    (warning,) = [e.data for e in events if e.type == "warning"]
    assert warning["code"] == "diverged"
    assert "the held-out loss behind step 8 was not finite; back to step 4" in warning["message"]
    assert [p.step for p in report.points] == [0, 4, 8, 12, 16]
    assert all(math.isfinite(p.validation_loss) for p in report.points)


def test_a_base_without_a_finite_loss_is_the_users_fault(
    base: Path, sums: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "mean_loss", scored_as({1: no_number}))
    with pytest.raises(UserError) as caught:
        run(base, sums, tmp_path, config())
    assert (caught.value.code, caught.value.param) == ("illegal_base", "base")
    assert "loss on held-out rows is nan, before the first step" in caught.value.message
    assert not training_checkpoint(tmp_path).exists()


def test_a_loss_that_is_no_number_once_it_is_stored_is_told(
    base: Path, sums: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apiq_core.finetune.finetune.mean_loss", lambda *_: math.inf)
    with pytest.raises(UserError, match="rounded to the dtype of its file") as caught:
        run(base, sums, tmp_path, config(max_steps=1))
    assert (caught.value.code, caught.value.param) == ("diverged", "lr")


def test_out_of_memory_once_goes_on_with_half_the_rows(
    base: Path, sums: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = torch.OutOfMemoryError("the GPU is full")
    whole = run(base, sums, tmp_path / "whole", config(micro_batch_size=1))
    # the second half of the first step, so that all steps are taken a row at a time
    monkeypatch.setattr(training, "summed_loss", failing([2], error))
    events: list[Event] = []
    report = run(base, sums, tmp_path / "halved", config(), on_event=events.append)
    (warning,) = [e.data for e in events if e.type == "warning"]
    assert warning["message"] == "out of memory at 2 rows at a time; on with 1"
    assert report.validation_loss == whole.validation_loss  # and nothing of the failed try is left


def test_out_of_memory_twice_fails(
    base: Path, sums: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes")
    monkeypatch.setattr(training, "summed_loss", failing([4, 7], error))
    with pytest.raises(InfraError) as caught:
        run(base, sums, tmp_path, config())
    assert caught.value.code == "out_of_memory"


@pytest.mark.parametrize("rows", [3, 0])
def test_out_of_memory_while_scoring_scores_fewer_rows_at_a_time(
    base: Path, sums: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    settings, scored = config(max_steps=1), list[int]()
    whole = run(base, sums, tmp_path / "whole", settings)

    def limited(model: Any, *tensors: torch.Tensor) -> tuple[torch.Tensor, int]:
        scored.append(len(tensors[0]))
        if scored[-1] > rows:
            raise torch.OutOfMemoryError("the GPU is full")
        return summed_loss(model, *tensors)

    monkeypatch.setattr(scoring, "summed_loss", limited)
    if rows == 0:
        with pytest.raises(InfraError, match=r"a held-out row of \d+ tokens was scored") as caught:
            run(base, sums, tmp_path, settings)
        assert caught.value.code == "out_of_memory"
        return
    report = run(base, sums, tmp_path / "halved", settings)
    assert scored[:7] == [8, 4, 2, 2, 4, 2, 2]
    assert report.validation_loss.before == pytest.approx(whole.validation_loss.before)
