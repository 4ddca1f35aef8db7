import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks.core import cells
from benchmarks.core.cells import Cell, Cells


class Measure:
    """Stands in for a process: counts how often it was asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, cell: Cell, work_dir: Path) -> dict[str, Any]:
        self.calls += 1
        return {"call": self.calls}


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> Measure:
    measure = Measure()
    monkeypatch.setattr(cells, "compute", measure)
    return measure


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("one")
    return path


@pytest.fixture(autouse=True)
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source file that stands for all that computes; contents are hashed anew for each test."""
    source = tmp_path / "code" / "module.py"
    source.parent.mkdir()
    source.write_text("x = 1")
    monkeypatch.setattr(cells, "COMPUTES", (source.parent,))
    cells.content_sha256.cache_clear()
    return source


def test_a_cell_is_measured_once(measure: Measure, text: Path, tmp_path: Path) -> None:
    for _ in range(3):
        cell = Cell("quantized", {"bits": 2}, {"text": text})
        assert Cells(tmp_path).figures(cell, "") == {"call": 1}


def test_another_config_is_another_cell(measure: Measure, tmp_path: Path) -> None:
    store = Cells(tmp_path)
    assert store.figures(Cell("quantized", {"bits": 2}), "") == {"call": 1}
    assert store.figures(Cell("quantized", {"bits": 3}), "") == {"call": 2}
    assert store.figures(Cell("memory", {"bits": 2}), "") == {"call": 3}


def test_what_is_in_an_input_counts_and_not_where_it_is(
    measure: Measure, text: Path, tmp_path: Path
) -> None:
    store = Cells(tmp_path)
    assert store.figures(Cell("quantized", {}, {"text": text}), "") == {"call": 1}
    moved = text.rename(tmp_path / "moved.txt")
    assert store.figures(Cell("quantized", {}, {"text": moved}), "") == {"call": 1}
    moved.write_text("two")
    cells.content_sha256.cache_clear()
    assert store.figures(Cell("quantized", {}, {"text": moved}), "") == {"call": 2}


def test_a_checkpoint_is_its_config_and_its_weights(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / name).write_text("{}")
    first = cells.content_sha256(tmp_path)
    for name, differs in (("tokenizer.json", False), ("config.json", True)):
        (tmp_path / name).write_text("{ }")
        cells.content_sha256.cache_clear()
        assert (cells.content_sha256(tmp_path) != first) == differs


def test_other_code_is_another_cell_but_not_other_comments(
    measure: Measure, code: Path, tmp_path: Path
) -> None:
    store, cell = Cells(tmp_path), Cell("quantized", {})
    for text, call in (("x = 1\n", 1), ("x  =  1  # why\n", 1), ("x = 2\n", 2), ("x = 1\n", 1)):
        code.write_text(text)
        assert store.figures(cell, "") == {"call": call}


def test_how_it_is_finetuned_is_no_part_of_how_it_is_quantized(
    code: Path, measure: Measure, tmp_path: Path
) -> None:
    store = Cells(tmp_path)
    for name in ("quantized", "finetune.trained"):
        store.figures(Cell(name, {}), "")
    (code.parent / "finetune").mkdir()
    (code.parent / "finetune" / "train.py").write_text("y = 1")
    assert store.figures(Cell("quantized", {}), "") == {"call": 1}
    assert store.figures(Cell("finetune.trained", {}), "") == {"call": 3}


def test_what_was_measured_while_the_code_changed_is_not_kept(
    code: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def edit(cell: Cell, work_dir: Path) -> dict[str, Any]:
        code.write_text("x = 2")
        return {}

    monkeypatch.setattr(cells, "compute", edit)
    assert Cells(tmp_path).figures(Cell("quantized", {}), "the title") is None
    assert not list(tmp_path.glob("*.json"))
    assert "the sources changed meanwhile: the title" in capsys.readouterr().out


def test_another_number_of_threads_is_another_cell(
    measure: Measure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for threads in ("1", "2", "1"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        Cells(tmp_path).figures(Cell("quantized", {}), "")
    assert measure.calls == 2


@pytest.mark.parametrize("torn", ["", '{"figures": {"call"', "{}"])
def test_a_torn_file_is_measured_again(torn: str, measure: Measure, tmp_path: Path) -> None:
    store, cell = Cells(tmp_path), Cell("quantized", {})
    store.figures(cell, "")
    (file,) = tmp_path.glob("*.json")
    file.write_text(torn)
    assert store.figures(cell, "") == {"call": 2}
    assert json.loads(file.read_text())["figures"] == {"call": 2}


def test_when_time_is_up_only_what_is_known_is_given(measure: Measure, tmp_path: Path) -> None:
    known, unknown = Cell("quantized", {"bits": 2}), Cell("quantized", {"bits": 3})
    Cells(tmp_path).figures(known, "")
    late = Cells(tmp_path, minutes=0)
    assert late.figures(known, "") == {"call": 1}
    assert late.figures(unknown, "") is None
    assert measure.calls == 1


def test_a_measure_that_fails_leaves_no_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(cell: Cell, work_dir: Path) -> dict[str, Any]:
        raise subprocess.CalledProcessError(1, "measure")

    monkeypatch.setattr(cells, "compute", fail)
    assert Cells(tmp_path).figures(Cell("quantized", {}), "the title") is None
    assert not list(tmp_path.glob("*.json"))
    assert "failed with exit code 1: the title" in capsys.readouterr().out
