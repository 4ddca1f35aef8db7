"""Stopped anywhere and run again in the same place, a run ends as if nothing had happened."""

import dataclasses
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from apiq_core.config import QuantizeConfig
from apiq_core.errors import Stopped
from apiq_core.events import Event
from apiq_core.layout import block_file
from apiq_core.methods import apiq_bw
from apiq_core.quantize import quantize
from tests.tiny_models import make_tiny

BLOCKS = 3
SMALL: dict[str, Any] = {
    "bits": 2,
    "rank": 4,
    "calibration": {"samples": 8, "length": 32, "held_out": 2},
    "evaluation": {"samples": 2, "length": 32},
}
TEXT = "dataset:ds_" + "0" * 32
BUDGET: dict[str, Any] = {"bits": None, "rank": None, "bits_per_weight": 6.0}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("models") / "tiny", layers=BLOCKS)


@dataclasses.dataclass
class Run:
    """One call of the core in one place, stopped once it has made so many blocks."""

    model_dir: Path
    out_dir: Path
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)
    stop_after: int | None = None
    texts: dict[str, Path] = dataclasses.field(default_factory=dict)
    events: list[Event] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        def should_stop() -> bool:
            return self.stop_after is not None and len(self.data("block")) >= self.stop_after

        try:
            quantize(
                self.model_dir,
                self.out_dir,
                QuantizeConfig.model_validate(SMALL | self.fields),
                on_event=self.events.append,
                should_stop=should_stop,
                texts=self.texts,
            )
        except Stopped:
            assert self.stop_after is not None
        else:
            assert self.stop_after is None

    def data(self, kind: str) -> list[dict[str, Any]]:
        return [event.data for event in self.events if event.type == kind]

    @property
    def made(self) -> list[int]:
        return [data["index"] for data in self.data("block")]

    @property
    def resumed(self) -> list[int]:
        return [data["blocks"] for data in self.data("resumed")]


def files(out_dir: Path) -> dict[str, bytes]:
    return {
        path.relative_to(out_dir).as_posix(): path.read_bytes()
        for name in ("model", "adapter")
        for path in (out_dir / name).rglob("*")
    }


def figures(out_dir: Path) -> dict[str, Any]:
    """The report without what depends on time."""
    report: dict[str, Any] = json.loads((out_dir / "report.json").read_text())
    for timed in (report, *report["blocks"]):
        assert timed.pop("seconds")
        timed.pop("held_out_seconds", None)
    assert report.pop("peak_memory_bytes")
    return report


def assert_same(out_dir: Path, undisturbed: Path) -> None:
    assert files(out_dir) == files(undisturbed)
    assert "adapter/adapter_model.safetensors" in files(out_dir)
    assert figures(out_dir) == figures(undisturbed)
    assert not (out_dir / "blocks").exists()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"method": "apiq-lw", "bits": 3},
        {"recipe": "paper", "training": {"epochs": 1}},
        {"adapter": "dora"},
        BUDGET,
        {"method": "apiq-lw", "recipe": "paper", "training": {"epochs": 1}},
    ],
    ids=["fast", "closed-form", "paper", "dora", "budget", "layer-wise-paper"],
)
def test_stopped_after_any_block(fields: dict[str, Any], tiny: Path, tmp_path: Path) -> None:
    Run(tiny, tmp_path / "undisturbed", fields)
    for block in range(1, BLOCKS + 1):
        out_dir = tmp_path / str(block)
        first = Run(tiny, out_dir, fields, stop_after=block)
        second = Run(tiny, out_dir, fields)
        assert (first.resumed, second.resumed) == ([], [block])
        assert first.made + second.made == list(range(BLOCKS))
        assert second.data("warning") == []
        assert_same(out_dir, tmp_path / "undisturbed")


def test_the_plan_is_taken_over_and_not_made_again(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Run(tiny, tmp_path / "undisturbed", BUDGET)
    Run(tiny, tmp_path / "out", BUDGET, stop_after=1)
    monkeypatch.delattr("apiq_core.quantize.make_plan")
    assert Run(tiny, tmp_path / "out", BUDGET).resumed == [1]
    assert_same(tmp_path / "out", tmp_path / "undisturbed")


def test_another_budget_starts_over(tiny: Path, tmp_path: Path) -> None:
    Run(tiny, tmp_path / "out", BUDGET, stop_after=2)
    run = Run(tiny, tmp_path / "out", BUDGET | {"bits_per_weight": 5.0})
    assert run.data("warning")[0]["differs"] == ["config.bits_per_weight", "plan"]
    assert (run.resumed, run.made) == ([], [0, 1, 2])


def test_stopped_again_and_again(tiny: Path, tmp_path: Path) -> None:
    Run(tiny, tmp_path / "undisturbed")
    for block in range(BLOCKS):
        assert Run(tiny, tmp_path / "out", stop_after=1).made == [block]
    assert Run(tiny, tmp_path / "out").made == []
    assert_same(tmp_path / "out", tmp_path / "undisturbed")


def test_progress_goes_on_where_it_was(tiny: Path, tmp_path: Path) -> None:
    before = Run(tiny, tmp_path / "out", stop_after=2).data("progress")[-1]
    progress = Run(tiny, tmp_path / "out").data("progress")
    # the last blocks' outputs are scored in one part, which is no block
    assert [report["done"] for report in progress] == [*range(1, 2 * BLOCKS + 1), 2 * BLOCKS]
    assert {report["total"] for report in progress} == {2 * BLOCKS}
    percents = [report["percent"] for report in progress]
    assert percents == sorted(percents) and percents[-1] == 100
    assert percents[0] > before["percent"] / 2  # what was done before counts
    assert all(report["eta_seconds"] is not None for report in progress)


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1000])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def overwrite(file: Path) -> None:
    file.write_bytes(b"\xff" * file.stat().st_size)


def strip(file: Path) -> None:
    save_file(load_file(file), file)  # the tensors are there, whose they are is not said


@pytest.mark.parametrize("damage", [cut_short, empty, overwrite, strip])
@pytest.mark.parametrize("block", [1, 2])
def test_a_torn_block_is_made_anew(
    damage: Callable[[Path], None], block: int, tiny: Path, tmp_path: Path
) -> None:
    Run(tiny, tmp_path / "undisturbed")
    out_dir = tmp_path / "out"
    Run(tiny, out_dir, stop_after=3)
    damage(block_file(out_dir, block))
    run = Run(tiny, out_dir)
    (warning,) = run.data("warning")
    assert warning["code"] == "checkpoint_discarded"
    assert (warning["block"], warning["differs"]) == (block, [])
    assert f"block {block}" in warning["message"]
    assert (run.resumed, run.made) == ([block], list(range(block, BLOCKS)))
    assert_same(out_dir, tmp_path / "undisturbed")


def test_what_was_half_written_is_cleared(tiny: Path, tmp_path: Path) -> None:
    Run(tiny, tmp_path / "undisturbed")
    out_dir = tmp_path / "out"
    Run(tiny, out_dir, stop_after=2)
    block_file(out_dir, 0).unlink()  # what follows a gap is of no use
    (out_dir / "blocks" / ".00002.safetensors.tmp").write_bytes(b"half")
    run = Run(tiny, out_dir)
    assert (run.resumed, run.made, run.data("warning")) == ([], [0, 1, 2], [])
    assert_same(out_dir, tmp_path / "undisturbed")


@pytest.mark.parametrize(
    ("fields", "differs"),
    [
        ({"seed": 1}, ["config.seed"]),
        ({"bits": 3, "rank": 2}, ["config.bits", "config.rank"]),
        ({"training": {"epochs": 1}}, ["config.training.epochs"]),
        (
            {"calibration": SMALL["calibration"] | {"seed": 1}},
            ["config.calibration.seed", "windows.held_out", "windows.train"],
        ),
    ],
)
def test_another_config_starts_over(
    fields: dict[str, Any], differs: list[str], tiny: Path, tmp_path: Path
) -> None:
    Run(tiny, tmp_path / "undisturbed", fields)
    Run(tiny, tmp_path / "out", stop_after=2)
    run = Run(tiny, tmp_path / "out", fields)
    (warning,) = run.data("warning")
    assert (warning["code"], warning["block"]) == ("checkpoint_discarded", 0)
    assert warning["differs"] == differs
    assert all(name in warning["message"] for name in differs)
    assert (run.resumed, run.made) == ([], [0, 1, 2])
    assert_same(tmp_path / "out", tmp_path / "undisturbed")


def test_other_weights_start_over(tiny: Path, tmp_path: Path) -> None:
    model_dir = tmp_path / "model"
    shutil.copytree(tiny, model_dir)
    Run(model_dir, tmp_path / "out", stop_after=1)
    make_tiny(model_dir, layers=BLOCKS, seed=1)
    run = Run(model_dir, tmp_path / "out")
    assert run.data("warning")[0]["differs"] == ["model.model.safetensors"]
    assert run.made == [0, 1, 2]


def test_one_bit_that_changed_in_place_starts_over(tiny: Path, tmp_path: Path) -> None:
    model_dir = tmp_path / "model"
    shutil.copytree(tiny, model_dir)
    Run(model_dir, tmp_path / "out", stop_after=1)
    weights = model_dir / "model.safetensors"
    before = weights.stat()
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    run = Run(model_dir, tmp_path / "out", stop_after=1)
    assert run.data("warning")[0]["differs"] == ["model.model.safetensors"]


def test_another_number_of_threads_starts_over(tiny: Path, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    Run(tiny, tmp_path / "out", stop_after=1)
    torch.set_num_threads(threads + 1)
    try:
        run = Run(tiny, tmp_path / "out", stop_after=1)
    finally:
        torch.set_num_threads(threads)
    assert run.data("warning")[0]["differs"] == ["threads"]


def test_another_evaluation_takes_the_blocks_over(tiny: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("All work and no play makes a dull model. " * 400)
    one = {"evaluation": {"source": TEXT, "samples": 2, "length": 32}}
    other = {"evaluation": {"source": TEXT, "samples": 3, "length": 16}}
    Run(tiny, tmp_path / "out", one, stop_after=2, texts={TEXT: text})
    assert Run(tiny, tmp_path / "out", other, texts={TEXT: text}).resumed == [2]


def test_warnings_and_losses_that_are_not_finite_are_taken_over(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = dataclasses.replace(
        apiq_bw.FROM_CLOSED_FORM, distance=lambda out, target: out.sum() * math.nan
    )
    monkeypatch.setattr(apiq_bw, "FROM_CLOSED_FORM", broken)
    Run(tiny, tmp_path / "undisturbed")
    Run(tiny, tmp_path / "out", stop_after=2)
    assert Run(tiny, tmp_path / "out").resumed == [2]
    assert_same(tmp_path / "out", tmp_path / "undisturbed")
    assert len(figures(tmp_path / "out")["warnings"]) == BLOCKS
