"""Tiny quantized models through the whole of finetuning, read back with stock tools."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.llama.modeling_llama import LlamaMLP

import apiq_core.finetune.finetune as finetuning
import apiq_core.finetune.run as running
import apiq_core.finetune.train as training
from apiq_core.errors import Stopped
from apiq_core.events import Event
from apiq_core.finetune.answers import Question, exact_match
from apiq_core.finetune.data import batches
from apiq_core.finetune.finetune import finetune
from apiq_core.finetune.parameters import trained_parameters
from apiq_core.reports.model_card import UNPACK
from tests.integration.core.finetune.support import config, quantized, run, stock_loss, stop_after
from tests.tiny_models import make_tiny

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers")


def test_it_learns_and_stock_tools_read_what_it_learned(
    base: Path, sums: Path, tmp_path: Path
) -> None:
    events: list[Event] = []
    report = run(base, sums, tmp_path, config(epochs=6), on_event=events.append)
    loss = report.validation_loss
    assert loss.after < 0.7 * loss.before
    assert report.rows == {"train": 32, "validation": 8}
    assert [p.step for p in report.points] == [0, *range(4, 49, 4)]
    used = report.config
    assert (used.evaluate_every, used.checkpoint_every) == (4, 4)
    assert (used.rank, used.adapter) == (None, None)  # those of the base
    assert report.points[0].validation_loss == loss.before
    assert report.exact_match is not None
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["versions"]["peft"] == peft.__version__
    assert written["versions"].keys() == {
        "apiq_core",
        "torch",
        "transformers",
        "peft",
        "python",
    }
    phases = [e.data["phase"] for e in events if e.type == "phase"]
    assert phases == ["preparing", "training", "evaluating", "packaging"]
    assert [e.data["step"] for e in events if e.type == "metrics"] == [0, *range(4, 49, 4)]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "README.md",
        "adapter",
        "report.html",
        "report.json",
    ]
    assert stock_loss(base, sums, tmp_path / "adapter") < 0.8 * stock_loss(
        base, sums, base / "adapter"
    )


def test_what_is_published_is_what_was_scored(base: Path, sums: Path, tmp_path: Path) -> None:
    """The loss of the report is that of the file, read by stock tools, on the held-out rows."""
    lines = sums.read_text().splitlines()
    report = run(base, sums, tmp_path / "out", config())
    from apiq_core.finetune.data.batches import split

    held_out = split([None] * len(lines), 0.2, 0)[1]  # type: ignore[list-item]
    (tmp_path / "held_out.jsonl").write_text("\n".join(lines[i] for i in held_out))
    found = stock_loss(base, tmp_path / "held_out.jsonl", tmp_path / "out" / "adapter")
    assert report.validation_loss.after == pytest.approx(found, rel=2e-2)  # bf16 products


@pytest.mark.parametrize("train", ["attention", "mlp"])
def test_only_the_chosen_adapters_move(base: Path, sums: Path, tmp_path: Path, train: str) -> None:
    run(base, sums, tmp_path, config(train=train))
    before = load_file(base / "adapter" / "adapter_model.safetensors")
    after = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    chosen = {name for name in before if {"attention": "self_attn", "mlp": "mlp"}[train] in name}
    assert moved == chosen


def test_the_order_of_an_epoch_is_made_once(
    base: Path, sums: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def epoch_batches(*arguments: Any) -> list[list[int]]:
        made.append(arguments[-1])
        return batches.epoch_batches(*arguments)

    monkeypatch.setattr(running, "epoch_batches", epoch_batches)
    report = run(base, sums, tmp_path, config(epochs=3, batch_size=5))  # 32 rows: 7 steps an epoch
    assert (made, report.points[-1].step) == ([0, 1, 2], 21)


def test_no_better_state_ends_it_early_and_the_best_is_kept(
    base: Path, sums: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = [3.0, 2.0, 2.5, 2.0]
    seen: list[dict[str, torch.Tensor]] = []

    def mean_loss(run: running.Run, members: object) -> float:
        parameters = trained_parameters(run.model)
        seen.append({name: p.detach().clone() for name, p in parameters.items()})
        return losses[len(seen) - 1]

    monkeypatch.setattr(training, "mean_loss", mean_loss)
    settings = config(epochs=50, patience=2, evaluate_every=2, checkpoint_every=20)
    events: list[Event] = []
    report = run(base, sums, tmp_path, settings, on_event=events.append)
    assert [p.step for p in report.points] == [0, 2, 4, 6]
    assert [e.data["step"] for e in events if e.type == "checkpoint"] == [0, 6]
    assert report.best_step == 2
    last = [e.data for e in events if e.type == "progress"][-1]
    assert (last["done"], last["total"], last["percent"]) == (6, 6, 100)
    kept = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    for name, wanted in seen[1].items():
        assert torch.equal(kept[name.replace(".default", "")], wanted.half())


@pytest.mark.parametrize(
    "fields",
    [
        {"bits": 3},
        {"bits": 4, "adapter": "dora"},
        {"bits": 4, "adapter": "ia3", "rank": None},
        {"bits": None, "rank": None, "bits_per_weight": 3.5},  # which leaves no room for factors
        {"formats": ["dense"]},
        {"method": "gptq-lora"},
    ],
    ids=str,
)
def test_whatever_was_quantized_learns(sums: Path, tmp_path: Path, fields: dict[str, Any]) -> None:
    base = quantized(tmp_path, **fields)
    report = run(base, sums, tmp_path / "out", config(epochs=6), base_name="job_1", is_job=True)
    assert report.validation_loss.after < 0.9 * report.validation_loss.before
    card = (tmp_path / "out" / "README.md").read_text()
    assert "`model/` of job\\_1" in card and 'from_pretrained("base/model")' in card
    assert (UNPACK in card) == ("bits_per_weight" in fields)


@pytest.mark.parametrize(
    ("adapter", "fields"), [("dora", {}), ("ia3", {"rank": None})], ids=["dora", "ia3"]
)
def test_another_adapter_than_lora_stays_what_it_is(
    sums: Path, tmp_path: Path, adapter: str, fields: dict[str, Any]
) -> None:
    base = quantized(tmp_path, bits=4, adapter=adapter, **fields)
    run(base, sums, tmp_path / "out", config())
    before, after = (
        load_file(folder / "adapter" / "adapter_model.safetensors")
        for folder in (base, tmp_path / "out")
    )
    assert {n: (t.shape, t.dtype) for n, t in after.items()} == {
        n: (t.shape, t.dtype) for n, t in before.items()
    }
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert stock_loss(base, sums, tmp_path / "out" / "adapter") < stock_loss(
        base, sums, base / "adapter"
    )


def test_a_base_without_adapter_gets_one(sums: Path, tmp_path: Path) -> None:
    source = make_tiny(tmp_path / "source")
    report = finetune(source, None, sums, tmp_path / "out", config(rank=8, epochs=6))
    assert report.validation_loss.after < 0.9 * report.validation_loss.before
    content = json.loads((tmp_path / "out" / "adapter" / "adapter_config.json").read_text())
    assert (content["r"], content["lora_alpha"]) == (8, 8)
    assert (report.config.rank, report.config.adapter) == (8, "lora")
    assert stock_loss(as_base(source, tmp_path), sums, tmp_path / "out" / "adapter") < 7


def test_a_new_adapter_may_be_dora(sums: Path, tmp_path: Path) -> None:
    """On integers rounded to nearest: as QDoRA starts."""
    base = quantized(tmp_path, method="rtn", bits=4, rank=None)
    report = run(base, sums, tmp_path / "out", config(rank=4, adapter="dora", epochs=6))
    assert report.validation_loss.after < 0.9 * report.validation_loss.before
    content = json.loads((tmp_path / "out" / "adapter" / "adapter_config.json").read_text())
    assert content["use_dora"]
    found = stock_loss(base, sums, tmp_path / "out" / "adapter")
    assert found < 0.9 * stock_loss(base, sums, None)


def test_dora_of_a_model_with_a_dead_channel(sums: Path, tmp_path: Path) -> None:
    source = make_tiny(tmp_path / "source")
    tensors = load_file(source / "model.safetensors")
    tensors["model.layers.0.mlp.gate_proj.weight"][3] = 0
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    settings = config(rank=4, adapter="dora")
    report = finetune(source, None, sums, tmp_path / "out", settings)
    plain = finetune(source, None, sums, tmp_path / "plain", config(rank=4, max_steps=1))
    assert report.validation_loss.before == pytest.approx(plain.validation_loss.before, rel=1e-3)
    found = stock_loss(as_base(source, tmp_path), sums, tmp_path / "out" / "adapter")
    assert found == pytest.approx(report.validation_loss.after, rel=0.5)  # of all rows


def as_base(source: Path, tmp_path: Path) -> Path:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "model").symlink_to(source)
    return tmp_path / "base"


def test_a_validation_file(base: Path, sums: Path, tmp_path: Path) -> None:
    lines = sums.read_text().splitlines()
    (tmp_path / "train.jsonl").write_text("\n".join(lines[:30]))
    (tmp_path / "held.jsonl").write_text("\n".join(lines[30:35]))
    (tmp_path / "other.jsonl").write_text("\n".join(lines[30:34]))
    settings = config(validation_fraction=None, epochs=1)
    should_stop, on_event = stop_after(2)
    with pytest.raises(Stopped):
        run(
            *(base, tmp_path / "train.jsonl", tmp_path / "out", settings),
            validation=tmp_path / "held.jsonl",
            on_event=on_event,
            should_stop=should_stop,
        )
    events: list[Event] = []
    report = run(
        *(base, tmp_path / "train.jsonl", tmp_path / "out", settings),
        validation=tmp_path / "other.jsonl",  # another run: its checkpoint does not belong to it
        on_event=events.append,
    )
    assert not [event for event in events if event.type == "resumed"]
    assert report.rows == {"train": 30, "validation": 4}
    assert report.config.validation_fraction is None
    assert run(base, sums, tmp_path / "share", settings).config.validation_fraction == 0.05
    found = stock_loss(base, tmp_path / "other.jsonl", tmp_path / "out" / "adapter")
    assert report.validation_loss.after == pytest.approx(found, rel=2e-2)  # bf16 products


def test_the_rows_that_are_scored_are_counted(base: Path, sums: Path, tmp_path: Path) -> None:
    settings = config(max_steps=1, validation_rows=3, answered_rows=0)
    report = run(base, sums, tmp_path, settings)
    whole = run(base, sums, tmp_path / "whole", config(max_steps=1, answered_rows=0))
    assert (report.rows, whole.rows["validation"]) == ({"train": 32, "validation": 3}, 8)
    assert 0 < report.tokens["validation"] < whole.tokens["validation"]
    assert "the loss on 3 rows that were held out" in (tmp_path / "README.md").read_text()
    assert "scored on 3 that were held out" in (tmp_path / "report.html").read_text()


def test_plain_text(base: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The statement is a statement. " * 200)
    report = run(base, text, tmp_path / "out", config(epochs=4))
    assert report.exact_match is None
    assert report.validation_loss.after < 0.8 * report.validation_loss.before


def test_what_is_asked_for_is_done(
    base: Path, sums: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of settings whose effect no loss shows: how often blocks run, and what is decoded."""
    forwards, asked = [0], list[tuple[int, int]]()
    forward: Callable[..., Any] = LlamaMLP.forward

    def counted(layer: LlamaMLP, *arguments: Any, **more: Any) -> Any:
        forwards[0] += layer.training
        return forward(layer, *arguments, **more)

    def noted(
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        questions: Iterable[Question],
        *,
        new_tokens: int,
        **more: Any,
    ) -> float | None:
        found = list(questions)
        asked.append((len(found), new_tokens))
        return exact_match(model, tokenizer, found, new_tokens=new_tokens, **more)

    monkeypatch.setattr(LlamaMLP, "forward", counted)
    monkeypatch.setattr(finetuning, "exact_match", noted)
    for checkpointing, runs in ((False, 1), (True, 2)):
        forwards[0] = 0
        fields = {"answered_rows": 3, "answer_tokens": 2, "gradient_checkpointing": checkpointing}
        run(base, sums, tmp_path / str(checkpointing), config(max_steps=1, **fields))
        assert forwards[0] == runs * 2 * 2  # blocks and micro-batches
    assert asked == [(3, 2)] * 2


def test_gradients_are_clipped_and_weights_decay(
    base: Path, sums: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: dict[str, Tensor] = {}
    original = training._update

    def update(*arguments: Any) -> None:
        (group,) = arguments[2].param_groups
        before = [parameter.detach().clone() for parameter in group["params"]]
        original(*arguments)
        changes = zip(before, group["params"], strict=True)
        moved[name] = torch.cat([(after - b).detach().flatten() for b, after in changes])
        start[name] = torch.cat([b.flatten() for b in before])

    start: dict[str, Tensor] = {}
    monkeypatch.setattr(training, "_update", update)
    few = {"max_steps": 1, "warmup_fraction": 0.0, "answered_rows": 0}
    fields: dict[str, dict[str, float]] = {
        "plain": {},
        "clipped": {"max_norm": 1e-12},  # far below AdamW's epsilon
        "decayed": {"weight_decay": 0.5},
    }
    for name, more in fields.items():
        run(base, sums, tmp_path / name, config(**few, **more))
    assert moved["clipped"].abs().max() < 0.01 * moved["plain"].abs().max()
    wanted = moved["plain"] - 1e-2 * 0.5 * start["plain"]
    torch.testing.assert_close(moved["decayed"], wanted, rtol=1e-3, atol=1e-6)
