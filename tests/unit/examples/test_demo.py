"""What `make demo` says when a step of it fails."""

import json
import re
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


def test_the_readme_shows_what_it_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    (shown,) = re.findall(r"^```\n(┏.*?)^```", readme, flags=re.MULTILINE | re.DOTALL)
    cells = [
        [cell.strip().replace(",", "") for cell in line.strip("│").split("│")]
        for line in shown.splitlines()
        if line.startswith("│")
    ]
    rows = [
        {
            "name": name,
            "perplexity": float(perplexity),
            "kl": float(kl) if kl else None,
            "file_bytes": float(file) * 1e6,
            "resident_bytes": float(loaded) * 1e6,
            "generated": "",
        }
        for name, perplexity, kl, _, file, loaded in cells
    ]
    bits = {name: float(width) for name, _, _, width, *_ in cells}
    report = {
        "bits_per_weight": {
            "weights": bits["ours without adapter"],
            "total": bits["ours with adapter"],
        },
        "calibration": {"tokens": 16_384, "source": "builtin"},
        "config": {"method": "apiq-bw", "recipe": "fast", "rank": 8},
        "evaluation": {"tokens": 4_096, "source": "builtin", "in_domain": True},
        "perplexity": {"quantized_with_adapter": 14.0},
        "peak_memory_bytes": {"quantizing": 1},
        "seconds": {"total": 1},
    }
    rivals = {name: {"bits_per_weight": {"total": bits[name]}} for name in demo.RIVALS}
    for name, content in {"ours": report, **rivals}.items():
        folder = tmp_path / name.replace(" ", "-")
        folder.mkdir()
        (folder / "report.json").write_text(json.dumps(content))
    monkeypatch.setattr(demo, "OUT", tmp_path)
    demo.show(rows, 1.0)
    assert shown in capsys.readouterr().out
