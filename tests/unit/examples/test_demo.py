"""What `make demo` says when a step of it fails."""

import sys
from pathlib import Path

import pytest

from examples import demo


def test_a_reader_that_fails_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "stock_reader.py").write_text("import no_such_package_of_python")
    monkeypatch.setattr(demo, "ROOT", tmp_path)
    monkeypatch.setattr(demo, "OUT", tmp_path)
    with pytest.raises(SystemExit, match="No module named 'no_such_package_of_python'"):
        demo.stock_rows()


def test_a_command_that_fails_ends_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "APIQ", [sys.executable, "-c", "raise SystemExit(2)"])
    with pytest.raises(SystemExit, match="apiq models import ended with exit code 2"):
        demo.apiq({}, "models", "import", "x")
