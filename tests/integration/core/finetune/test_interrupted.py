"""Training that is stopped and gone on with, and checkpoints that cannot be."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import apiq_core.finetune.train as training
from apiq_core.errors import Stopped
from apiq_core.events import Event
from apiq_core.finetune.loss import summed_loss
from apiq_core.layout import training_checkpoint
from tests.integration.core.finetune.support import config, run, stop_after

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers")


@pytest.mark.parametrize("step", [1, 5, 9])
def test_stopped_and_resumed_gives_the_same_bytes(
    base: Path, sums: Path, tmp_path: Path, step: int
) -> None:
    whole = run(base, sums, tmp_path / "whole", config())
    should_stop, on_event = stop_after(step)
    with pytest.raises(Stopped):
        run(base, sums, tmp_path / "parts", config(), should_stop=should_stop, on_event=on_event)
    assert training_checkpoint(tmp_path / "parts").exists()
    events: list[Event] = []
    resumed = run(base, sums, tmp_path / "parts", config(), on_event=events.append)
    assert [e.data["step"] for e in events if e.type == "resumed"] == [step]
    file = "adapter/adapter_model.safetensors"
    assert (tmp_path / "parts" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    losses = [
        [(p.step, p.train_loss, p.validation_loss) for p in r.points] for r in (whole, resumed)
    ]
    assert losses[0] == losses[1]


def test_a_stop_order_is_heard_within_a_step(
    base: Path, sums: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the resumed run begins that step anew."""
    whole = run(base, sums, tmp_path / "whole", config())
    calls = 0

    def counted(model: Any, *tensors: torch.Tensor) -> tuple[torch.Tensor, int]:
        nonlocal calls
        calls += model.training
        return summed_loss(model, *tensors)

    monkeypatch.setattr(training, "summed_loss", counted)
    events: list[Event] = []
    with pytest.raises(Stopped):
        run(
            *(base, sums, tmp_path / "parts", config()),
            should_stop=lambda: calls == 5,  # the first half of the third step
            on_event=events.append,
        )
    assert (calls, events[-1].type, events[-1].data) == (5, "checkpoint", {"step": 2})
    resumed = run(base, sums, tmp_path / "parts", config())
    file = "adapter/adapter_model.safetensors"
    assert (tmp_path / "parts" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert resumed.validation_loss == whole.validation_loss


def test_a_checkpoint_of_another_run_is_not_gone_on_with(
    base: Path, sums: Path, tmp_path: Path
) -> None:
    base, out = Path(shutil.copytree(base, tmp_path / "base")), tmp_path / "out"
    should_stop, on_event = stop_after(3)
    with pytest.raises(Stopped):
        run(base, sums, out, config(), should_stop=should_stop, on_event=on_event)
    events: list[Event] = []
    with (base / "model" / "tokenizer_config.json").open("a") as file:
        file.write("\n")
    run(base, sums, out, config(lr=5e-3), on_event=events.append)
    assert not [e for e in events if e.type == "resumed"]
    assert next(e.data["done"] for e in events if e.type == "progress") == 1
    (warning,) = [e.data for e in events if e.type == "warning"]
    assert (warning["code"], warning["block"]) == ("checkpoint_discarded", 0)
    assert warning["differs"] == ["config.lr", "model.tokenizer_config.json"]
    named = ", ".join(warning["differs"])
    assert f"was made with another {named}; training begins anew" in warning["message"]


def test_a_checkpoint_that_cannot_be_read_is_told(base: Path, sums: Path, tmp_path: Path) -> None:
    file = training_checkpoint(tmp_path)
    events: list[Event] = []
    for content in (b"cut short", safetensors.torch.save({"a": torch.ones(1)})):
        file.write_bytes(content)
        events.clear()
        run(base, sums, tmp_path, config(max_steps=1), on_event=events.append)
        (warning,) = [e.data for e in events if e.type == "warning"]
        assert (warning["code"], warning["differs"]) == ("checkpoint_discarded", [])
