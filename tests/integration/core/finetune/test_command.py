"""`python -m apiq_core.finetune` on what `python -m apiq_core` left, and on a checkpoint."""

import json
import signal
from pathlib import Path

import pytest

from apiq_core.__main__ import main as quantize
from apiq_core.events import Event
from apiq_core.finetune.__main__ import main
from apiq_core.options import EXIT_STOPPED, show
from tests.integration.core.finetune.support import quantized
from tests.tiny_models import make_tiny

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers")
FEW = ["--max-steps", "2", "--max-length", "64", "--answered-rows", "0", "--micro-batch-size", "2"]


def test_an_artifact_and_a_checkpoint(
    sums: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = quantized(tmp_path)
    assert main([str(base), str(sums), str(tmp_path / "lora"), *FEW]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["validation_loss"].keys() == {"before", "after"}
    assert "checkpoint" in told.err
    ranks = json.loads((tmp_path / "lora" / "adapter" / "adapter_config.json").read_text())
    assert ranks == json.loads((base / "adapter" / "adapter_config.json").read_text())
    l4q = [str(tmp_path / "source"), str(sums), str(tmp_path / "l4q"), "--method", "l4q"]
    assert main([*l4q, "--bits", "3", *FEW]) == 0
    assert (tmp_path / "l4q" / "model" / "config.json").is_file()
    capsys.readouterr()
    assert main([*l4q, *FEW]) == 2
    assert "bits is not given, and base is not quantized" in capsys.readouterr().err


def test_a_signal_stops_it_at_a_safe_point(
    sums: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def raise_signal(event: Event) -> None:
        show(event)
        if event.type == "progress" and event.data["done"] == 1:
            signal.raise_signal(signal.SIGTERM)

    source, before = make_tiny(tmp_path / "source"), signal.getsignal(signal.SIGTERM)
    command = [str(source), str(sums), str(tmp_path / "out"), *FEW]
    with monkeypatch.context() as patch:
        patch.setattr("apiq_core.finetune.__main__.show", raise_signal)
        assert main(command) == EXIT_STOPPED
    assert "stopped; the same command goes on from here" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before
    assert main(command) == 0
    assert 'resumed {"step": 1}' in capsys.readouterr().err


def test_wrong_usage(tmp_path: Path, sums: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), str(sums), "out", "--lr", "3"]) == 2
    assert "error: lr is 3; legal: less than or equal to 1" in capsys.readouterr().err
    assert quantize([str(tmp_path), "out"]) == 2
    told = "error: neither bits nor bits_per_weight is given; legal: one of them\n"
    assert capsys.readouterr().err == told
    for arguments in ([str(tmp_path), "nowhere"], [str(tmp_path / "nowhere"), str(sums)]):
        with pytest.raises(SystemExit) as caught:
            main([*arguments, "out"])
        assert caught.value.code == 2
        assert "nowhere" in capsys.readouterr().err
