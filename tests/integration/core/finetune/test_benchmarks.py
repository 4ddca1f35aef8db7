"""The measures of finetuning on a tiny random model, in processes of their own."""

import json
from importlib import import_module
from pathlib import Path

import pytest

from apiq_core.finetune.config import FinetuneConfig
from benchmarks.core import texts, trainees
from benchmarks.core.cells import Cell, Cells, Figures
from benchmarks.core.contenders import CLOSED_FORM, Setting
from benchmarks.core.finetune import row
from benchmarks.core.l4q import adapter_of
from benchmarks.core.measure.finetune import merged, start, step
from benchmarks.core.measure.finetune import trained as trained_measure
from benchmarks.core.trainees import APIQ, FULL, QLORA_STYLE, Task, trained
from tests.tiny_models import make_tiny

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers")

FEW = {"max_steps": 4, "evaluate_every": 2, "batch_size": 2, "validation_rows": 2}


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setting:
    monkeypatch.setattr(texts, "TEXTS_DIR", tmp_path / "texts")
    monkeypatch.setattr(trainees, "TRAINING", trainees.TRAINING | FEW)
    return Setting(make_tiny(tmp_path / "model"), texts.builtin(), (), samples=4)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cells:
    """Measured in this process: what a fresh one costs is shown by the tests of the others."""

    def compute(cell: Cell, work_dir: Path) -> Figures:
        work_dir.mkdir(parents=True)
        measure = import_module(f"benchmarks.core.measure.{cell.measure}")
        figures: Figures = measure.figures(cell.config, dict(cell.inputs), work_dir)
        return figures

    monkeypatch.setattr("benchmarks.core.cells.compute", compute)
    monkeypatch.setattr(start, "STARTS_DIR", tmp_path / "starts")
    monkeypatch.setattr(trained_measure, "TRAINED_DIR", tmp_path / "trained")
    (tmp_path / "cells").mkdir()
    return Cells(tmp_path / "cells")


@pytest.fixture
def task(tmp_path: Path) -> Task:
    path = tmp_path / "rows.jsonl"
    rows = [{"question": f"How many is {n} and 1?", "answer": f"It is {n + 1}."} for n in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Task("sums", path, max_length=48)


def test_all_are_trained_alike(setting: Setting, store: Cells, task: Task) -> None:
    found = {name: trained(store, setting, task, name, 2) for name in (QLORA_STYLE, APIQ, FULL)}
    counts, bits = set(), dict[str, float]()
    for name, figures in found.items():
        assert figures is not None
        bits[name] = figures["bits_per_weight"]
        shown = row(task, name, 2, figures)
        assert shown["steps"] == 4
        assert shown["loss after"] < shown["loss before"]
        counts.add((figures["trained_parameters"], *figures["rows"].values()))
    assert len(counts) == 1
    bare = trainees.start(store, setting, QLORA_STYLE, 2, trainees.RANK)
    start_bits = bare["bits_per_weight"] if bare else 0.0
    assert bits[FULL] - 16 == pytest.approx(bits[APIQ] - start_bits, abs=1e-3)
    assert bits[QLORA_STYLE] == pytest.approx(bits[APIQ], abs=1e-3)


def test_a_merged_adapter_is_scored_on_the_rows_that_its_training_held_out(
    setting: Setting, store: Cells, task: Task, tmp_path: Path
) -> None:
    lora = trained(store, setting, task, FULL, 16)
    assert lora is not None
    inputs = {"base": setting.model_dir, "rows": task.rows, "adapter": adapter_of(lora)}
    config = {"grid": {"bits": 8, "group_size": 32}, "finetune": trainees.settings(task)}
    figures = merged.figures(config, inputs, tmp_path / "merged")
    assert figures["loss"] == pytest.approx(lora["after"], rel=1e-2)  # 8 bits round little
    assert 8 < figures["bits_per_weight"] < 9


def test_the_step_on_packed_weights_is_that_on_dense_ones(setting: Setting, store: Cells) -> None:
    made = trainees.start(store, setting, CLOSED_FORM, 2, 4)
    assert made is not None
    folder = Path(made["folder"])
    inputs = {"base": folder / "model", "adapter": folder / "adapter"}
    config = {"rows": 2, "length": 16, "rounds": 1}
    figures = step.figures(config, inputs, folder)
    assert figures["losses"]["packed"] == pytest.approx(figures["losses"]["dense"], rel=1e-3)
    assert figures["ratio"] > 0
    assert step.figures(config | {"weights": "packed"}, inputs, folder)["peak_bytes"]["anonymous"]


def test_the_training_of_the_benchmark_is_legal() -> None:
    FinetuneConfig.model_validate(trainees.TRAINING)
