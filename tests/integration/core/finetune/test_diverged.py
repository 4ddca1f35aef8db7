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
from apiq_core.errors import InfraError, UserError
from apiq_core.events import Event
from apiq_core.finetune import scoring
from apiq_core.layout import training_checkpoint
from tests.integration.core.finetune.support import config, run

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers")


def failing(at: list[int], error: Exception | None) -> Callable[..., tuple[torch.Tensor, int]]:
    """`summed_loss`, whose calls with these numbers, while training, go wrong."""
    calls = [0]
    original = training.summed_loss

    def summed(model: Any, *tensors: torch.Tensor) -> tuple[torch.Tensor, int]:
        loss, count = original(model, *tensors)
        if model.training:
            calls[0] += 1
            if calls[0] in at:
                if error is not None:
                    raise error
                loss = loss * math.nan
        return loss, count

    return summed


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


def scored_as(changes: dict[int, Callable[[float], float]]) -> Callable[..., float]:
    """`mean_loss`, whose calls with these numbers, from 1, give back something else."""
    calls = itertools.count(1)
    original = training.mean_loss

    def mean_loss(run: running.Run, members: Sequence[int]) -> float:
        change = changes.get(next(calls), lambda loss: loss)
        return change(original(run, members))

    return mean_loss


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
    monkeypatch.setattr(training, "summed_loss", failing([4], error))
    events: list[Event] = []
    report = run(base, sums, tmp_path / "halved", config(), on_event=events.append)
    (warning,) = [e.data for e in events if e.type == "warning"]
    assert warning["message"] == "out of memory at 2 rows at a time; on with 1"
    ours, theirs = report.validation_loss.after, whole.validation_loss.after
    assert ours == pytest.approx(theirs, rel=0.02)  # the same gradients, summed otherwise


def test_out_of_memory_twice_fails(
    base: Path, sums: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes")
    monkeypatch.setattr(training, "summed_loss", failing([4, 7], error))
    with pytest.raises(InfraError) as caught:
        run(base, sums, tmp_path, config())
    assert caught.value.code == "out_of_memory"


def test_out_of_memory_while_scoring_is_told_as_such(
    base: Path, sums: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def summed_loss(*_: Any) -> None:
        raise torch.OutOfMemoryError("the GPU is full")

    monkeypatch.setattr(scoring, "summed_loss", summed_loss)
    with pytest.raises(InfraError, match="8 held-out rows of up to") as caught:
        run(base, sums, tmp_path, config())
    assert caught.value.code == "out_of_memory"
