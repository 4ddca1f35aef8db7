"""Tiny random models through the whole core: what a run does, and what it refuses."""

import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from apiq_core.block import Block, BlockResult
from apiq_core.calibration import draw_windows
from apiq_core.checkpoint import Checkpoint
from apiq_core.errors import InfraError, Stopped, UserError
from apiq_core.events import Event
from apiq_core.gradient.optimise import Student, train_block
from apiq_core.methods import apiq_bw
from apiq_core.quantize import quantize
from apiq_core.skeleton import Skeleton
from apiq_core.tokenizer import load_tokenizer
from tests.integration.core.small import small_config
from tests.tiny_models import make_tiny


def test_artifact_has_the_promised_files_and_nothing_else(tiny: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    report = quantize(tiny, tmp_path / "out", small_config(), on_event=events.append)
    for folder in ("model", "adapter"):  # weights against weights: no tokenizer, as of the source
        files = (tmp_path / "out" / folder).glob("*.safetensors")
        assert report.bytes[folder] == sum(file.stat().st_size for file in files) > 0
    found = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*")}
    assert {"report.json", "report.html", "README.md"} <= found
    assert {p for p in found if "/" not in p} == {
        "model",
        "adapter",
        "report.json",
        "report.html",
        "README.md",
    }
    assert {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"} <= found
    assert {"model/config.json", "model/tokenizer.json"} <= found
    phases = [event.data["phase"] for event in events if event.type == "phase"]
    assert phases == ["calibrating", "quantizing", "evaluating", "packaging"]
    percents = [event.data["percent"] for event in events if event.type == "progress"]
    assert percents == sorted(percents) and percents[-1] == 100.0
    source = json.loads((tiny / "config.json").read_text())
    stored = json.loads((tmp_path / "out" / "model" / "config.json").read_text())
    assert stored.pop("quantization_config")["config_groups"]["group_0"]["weights"]["num_bits"] == 2
    assert stored == source


def test_nothing_is_left_of_an_earlier_run(tiny: Path, tmp_path: Path) -> None:
    longer = make_tiny(tmp_path / "longer", layers=3)
    quantize(longer, tmp_path / "out", small_config(method="loftq", rank=4))
    config = small_config(method="rtn")
    assert quantize(tiny, tmp_path / "out", config).bytes["adapter"] == 0
    quantize(tiny, tmp_path / "alone", config)
    again, alone = (
        {file.relative_to(folder) for file in folder.rglob("*")}
        for folder in (tmp_path / "out", tmp_path / "alone")
    )
    assert again == alone


def test_one_block_is_in_memory_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model_dir = make_tiny(tmp_path / "source", layers=3)
    loaded: list[weakref.ref[torch.Tensor]] = []
    load_block = Skeleton.load_block

    def watched(self: Skeleton, source: Checkpoint, index: int) -> dict[str, torch.Tensor]:
        assert not [weight for weight in loaded if weight() is not None]
        weights = load_block(self, source, index)
        loaded[:] = [weakref.ref(weight) for weight in weights.values()]
        return weights

    monkeypatch.setattr(Skeleton, "load_block", watched)
    for method in ("apiq-bw", "awq"):
        quantize(model_dir, tmp_path / method, small_config(method=method))
    assert loaded


def test_it_is_scored_in_fp32_whatever_it_is_computed_in(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fp32 = quantize(tiny, tmp_path / "fp32", small_config(method="rtn"))
    for name in ("compute_dtype", "matmul_dtype"):
        monkeypatch.setattr(f"apiq_core.quantize.{name}", lambda device: torch.bfloat16)
    bf16 = quantize(tiny, tmp_path / "bf16", small_config(method="rtn"))
    assert bf16.perplexity == fp32.perplexity and bf16.kl == fp32.kl


def test_rotary_tables_in_a_checkpoint_are_left_out(tiny: Path, tmp_path: Path) -> None:
    """Checkpoints as old as Llama-2's hold them, in every block."""
    model_dir = Path(shutil.copytree(tiny, tmp_path / "source"))
    tensors = load_file(model_dir / "model.safetensors")
    for index in range(2):
        tensors[f"model.layers.{index}.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    save_file(tensors, model_dir / "model.safetensors", metadata={"format": "pt"})
    config = small_config(method="rtn")
    found, wanted = (
        quantize(model_dir, tmp_path / "out", config),
        quantize(tiny, tmp_path / "a", config),
    )
    assert found.perplexity == wanted.perplexity
    index_text = (tmp_path / "out/model/model.safetensors.index.json").read_text()
    assert "up_proj" in index_text and "rotary" not in index_text


def test_same_seed_gives_the_same_bytes(tiny: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        quantize(tiny, tmp_path / name, small_config())
    for file in (tmp_path / "one").rglob("*.safetensors"):
        twin = tmp_path / "two" / file.relative_to(tmp_path / "one")
        assert file.read_bytes() == twin.read_bytes(), file.name


@pytest.mark.parametrize(
    ("recipe", "adapter"),
    [("fast", "lora"), ("paper", "lora"), ("fast", "dora"), ("fast", "ia3"), ("paper", "ia3")],
)
def test_the_gradient_phase_lowers_the_held_out_loss(
    recipe: str, adapter: str, tiny: Path, tmp_path: Path
) -> None:
    config = small_config(
        recipe=recipe,
        adapter=adapter,
        rank=0 if adapter == "ia3" else 4,
        training={"epochs": 4, "lr_adapter": 1e-3},
        # enough text that what is learned holds for text that was not seen: by 1% or more
        calibration={"samples": 128, "length": 64, "held_out": 16},
    )
    report = quantize(tiny, tmp_path / "out", config)
    for block in report.blocks:
        assert len(block.train_loss) == 4 and len(block.held_out_loss) == 5
        assert block.train_loss[-1] < block.train_loss[0]
        assert min(block.held_out_loss) < block.held_out_loss[0]
        assert len(block.held_out_error) == len(block.held_out_seconds) == 5
        assert block.held_out_seconds == sorted(block.held_out_seconds)
        assert block.held_out_seconds[-1] <= block.seconds
        kept = block.held_out_loss.index(min(block.held_out_loss))
        assert block.held_out_error[kept] == pytest.approx(block.error, rel=0.05)


def test_a_diverging_block_keeps_its_start_and_the_run_goes_on(tiny: Path, tmp_path: Path) -> None:
    training = {"epochs": 2, "lr_adapter": 1.0, "lr_quantizer": 1.0}
    report = quantize(tiny, tmp_path / "out", small_config(training=training))
    start = quantize(tiny, tmp_path / "lw", small_config(method="apiq-lw"))
    assert report.blocks[0].held_out_loss[0] == min(report.blocks[0].held_out_loss)
    assert report.blocks[0].error == pytest.approx(start.blocks[0].error)


def test_a_loss_that_is_not_finite_is_reported(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = dataclasses.replace(
        apiq_bw.FROM_CLOSED_FORM, distance=lambda out, target: out.sum() * math.nan
    )
    monkeypatch.setattr(apiq_bw, "FROM_CLOSED_FORM", broken)
    events: list[Event] = []
    report = quantize(tiny, tmp_path / "out", small_config(), on_event=events.append)
    assert len(report.warnings) == 2 and "block 0" in report.warnings[0]
    assert [e.data["code"] for e in events if e.type == "warning"] == ["diverged", "diverged"]
    assert report.kl is not None and math.isfinite(report.kl["quantized_with_adapter"])


def test_stops_at_a_safe_point(tiny: Path, tmp_path: Path) -> None:
    calls = 0

    def stop_later() -> bool:
        nonlocal calls
        calls += 1
        return calls > 9

    with pytest.raises(Stopped):
        quantize(tiny, tmp_path / "out", small_config(), should_stop=stop_later)
    assert not list(tmp_path.rglob("*.tmp"))


def test_text_of_a_file_is_used_and_out_of_domain_is_said(tiny: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("All work and no play makes a dull model. " * 400)
    source = "dataset:ds_" + "0" * 32
    config = small_config(evaluation={"samples": 2, "length": 64, "source": source})
    report = quantize(tiny, tmp_path / "out", config, texts={source: text})
    assert report.evaluation is not None and not report.evaluation.in_domain
    assert report.calibration is not None and report.calibration.source == "builtin"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"calibration": {"samples": 8192, "length": 256}}, "calibration.samples"),
        ({"calibration": {"held_out": 1024, "length": 512}}, "calibration.held_out"),
        (
            {"calibration": {"held_out": 1024, "length": 512}, "method": "rtn"},
            "calibration.held_out",
        ),
        ({"evaluation": {"samples": 1024, "length": 512}}, "evaluation.samples"),
    ],
)
def test_too_little_text_says_what_there_is_enough_for(
    fields: dict[str, Any], param: str, tiny: Path, tmp_path: Path
) -> None:
    config = small_config(**fields)
    with pytest.raises(UserError) as caught:
        quantize(tiny, tmp_path / "out", config)
    part, name = param.split(".")
    error = caught.value
    assert (error.code, error.param) == ("too_little_text", param)
    assert error.value == fields[part][name]
    assert 0 < error.legal["at_most"] < error.value
    tokenizer = load_tokenizer(tiny)
    fewer = {name: error.legal["at_most"]} | ({"samples": 1} if name == "held_out" else {})
    enough = small_config(**fields | {part: fields[part] | fewer})
    if part == "calibration":
        assert draw_windows(tokenizer, enough, {}).held_out.shape[0] == enough.calibration.held_out
    else:
        with pytest.raises(UserError) as caught:  # the same text is calibrated on
            draw_windows(tokenizer, enough, {})
        assert str(caught.value.param).startswith("calibration.")


def test_the_mark_before_a_text_is_none_of_it(tiny: Path, tmp_path: Path) -> None:
    """Editors on Windows begin a file with it."""
    config = small_config(calibration={"source": "dataset:ds_" + "0" * 32})
    files = {"plain": tmp_path / "plain.txt", "marked": tmp_path / "marked.txt"}
    files["plain"].write_text("the module " * 8000)
    files["marked"].write_bytes(b"\xef\xbb\xbf" + files["plain"].read_bytes())
    assert config.calibration.source is not None
    plain, marked = (
        draw_windows(load_tokenizer(tiny), config, {config.calibration.source: file})
        for file in files.values()
    )
    assert torch.equal(marked.train, plain.train)


def test_a_stop_order_is_heard_while_a_text_is_tokenized(tiny: Path, tmp_path: Path) -> None:
    seen: list[Event] = []
    with pytest.raises(Stopped):
        quantize(
            tiny, tmp_path / "out", small_config(), on_event=seen.append, should_stop=lambda: True
        )
    assert [event.data["phase"] for event in seen if event.type == "phase"] == ["calibrating"]


def test_a_text_that_is_not_there_is_named_by_who_asks_for_it(tiny: Path, tmp_path: Path) -> None:
    for part in ("calibration", "evaluation"):
        config = small_config(**{part: {"source": "wikitext2"}})
        with pytest.raises(UserError) as caught:
            quantize(tiny, tmp_path / "out", config)
        assert (caught.value.code, caught.value.param) == ("text_not_available", f"{part}.source")


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    model_dir = make_tiny(tmp_path / "source")
    tensors = load_file(model_dir / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(tensors, model_dir / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError) as caught:
        quantize(model_dir, tmp_path / "out", small_config())
    assert caught.value.code == "corrupt_weights"
    assert "model.layers.1.mlp.up_proj.weight" in caught.value.message


def test_tokens_that_the_model_has_no_embedding_for_are_refused(tmp_path: Path) -> None:
    model_dir = make_tiny(tmp_path / "source", vocab_size=300)
    with pytest.raises(UserError) as caught:
        quantize(model_dir, tmp_path / "out", small_config(method="rtn"))
    assert caught.value.code == "corrupt_tokenizer"
    assert "embedding has 300 rows" in caught.value.message


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_is_one_clear_error_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    model_dir = make_tiny(tmp_path / "source", layers=6, hidden=128, intermediate=256)
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting is not permitted here")
    try:
        with pytest.raises(InfraError) as caught:
            quantize(model_dir, disk / "out", small_config(method="rtn"))
        assert caught.value.code == "disk_full"
        assert not (disk / "out" / "model").exists()
        blocks = sorted((disk / "out" / "blocks").iterdir())
        assert blocks
        for block in blocks:
            load_file(block)  # whole
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_rounding_needs_no_text_but_for_its_report(tiny: Path, tmp_path: Path) -> None:
    seen: dict[int, dict[str, bytes]] = {}
    for held_out in (1, 4):
        config = small_config(method="rtn")
        calibration = config.calibration.model_copy(update={"held_out": held_out})
        config = config.model_copy(update={"calibration": calibration})
        report = quantize(tiny, tmp_path / str(held_out), config)
        assert report.calibration is not None
        assert (report.calibration.train_windows, report.calibration.tokens) == (0, 0)
        assert all(0 < block.error < 10 for block in report.blocks)
        weights = (tmp_path / str(held_out) / "model").glob("*.safetensors")
        seen[held_out] = {file.name: file.read_bytes() for file in weights}
    assert seen[1] == seen[4] != {}


def test_the_command_line_runs_without_any_service(tiny: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "apiq_core", str(tiny), str(tmp_path / "out"), "--bits", "4"]
    options = ["--method", "rtn", "--evaluation-samples", "2", "--evaluation-length", "32"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["bits_per_weight"]["adapter"] == 0
    bad = subprocess.run([*command[:-1], "5"], capture_output=True, text=True, timeout=120)
    assert bad.returncode == 2 and "bits" in bad.stderr and "5" in bad.stderr
    shutil.rmtree(tmp_path / "out")


@pytest.mark.parametrize(("lr_rounding", "trained"), [(0.0, False), (0.03, True)])
def test_rounding_is_trained_where_it_has_a_learning_rate(
    lr_rounding: float, trained: bool, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = set()

    def count(block: Block, student: Student, *args: Any, **kwargs: Any) -> BlockResult:
        counts.add(len(student.rounding_parameters))
        return train_block(block, student, *args, **kwargs)

    monkeypatch.setattr(apiq_bw, "train_block", count)
    config = small_config(recipe="fast", training={"epochs": 1, "lr_rounding": lr_rounding})
    quantize(tiny, tmp_path / "out", config)
    assert [bool(n) for n in counts] == [trained]
