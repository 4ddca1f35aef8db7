"""The end-to-end polish: its streamed gradient, what it keeps, and that it can be stopped."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import kl_div, log_softmax

from apiq_core import polish as polishing
from apiq_core.artifact import Artifact
from apiq_core.block import replace_weights
from apiq_core.budget.plan import uniform_plan
from apiq_core.checkpoint import Checkpoint
from apiq_core.config import QuantizeConfig
from apiq_core.errors import Stopped
from apiq_core.events import Event
from apiq_core.inspect import inspect_model
from apiq_core.quantize import quantize
from apiq_core.resolve import resolve
from apiq_core.skeleton import Skeleton, run_block
from apiq_core.stream import Stream
from tests.tiny_models import make_tiny

FIELDS: dict[str, Any] = {
    "bits": 2,
    "rank": 4,
    "recipe": "best",
    "calibration": {"samples": 32, "length": 32, "held_out": 8},
    "evaluation": {"samples": 4, "length": 64},
    "training": {"epochs": 1, "polish_epochs": 2},
}


def config(**fields: Any) -> QuantizeConfig:
    return QuantizeConfig.model_validate(FIELDS | fields)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("models") / "tiny", layers=3)


@pytest.fixture(scope="module")
def finished(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out_dir = tmp_path_factory.mktemp("finished") / "out"
    quantize(tiny, out_dir, config())
    return out_dir


class StopBefore:
    """Stops a run at the first event of a phase."""

    def __init__(self, phase: str) -> None:
        self.phase, self.there = phase, False

    def __call__(self, event: Event) -> None:
        self.there |= event.data.get("phase") == self.phase


def blocks_only(model_dir: Path, out_dir: Path) -> None:
    """A run that is stopped when its blocks are done."""
    stop = StopBefore("polishing")
    with pytest.raises(Stopped):
        quantize(model_dir, out_dir, config(), on_event=stop, should_stop=lambda: stop.there)


def test_the_streamed_gradient_is_that_of_the_whole_network(tiny: Path, tmp_path: Path) -> None:
    blocks_only(tiny, tmp_path)
    cpu = torch.device("cpu")
    skeleton = Skeleton(tiny, cpu, torch.float32)
    resolved = resolve(config(), inspect_model(tiny))
    facts = inspect_model(tiny)
    artifact = Artifact(tmp_path, skeleton, resolved, uniform_plan(resolved, facts))
    tokens = torch.randint(2, 500, (6, 16), generator=torch.Generator().manual_seed(0))
    with Checkpoint(tiny) as source:
        hidden, calls = skeleton.embed(source, tokens)
        stream = Stream.start(hidden.clone(), 4, cpu)
        for index, module in enumerate(skeleton.blocks):
            teacher = skeleton.load_block(source, index)
            stream.teach(module, teacher, calls[index])
            stream.advance(module, teacher, calls[index])
        network = polishing._Network(skeleton, source, artifact, tokens, stream)
        members = torch.tensor([2, 0])
        loss = network.step(members, lambda: None)
        streamed = [parameter.grad for parameter in network.parameters()]
        for parameter in network.parameters():
            parameter.grad = None

        out = hidden[members]  # the same in one graph
        for index, module in enumerate(skeleton.blocks):
            stored = artifact.read_block(index)
            weights = {
                name: layer.weight(stored[name].integers)
                for name, layer in network.blocks[index].items()
            }
            teacher = skeleton.load_block(source, index)
            out = run_block(module, replace_weights(teacher, weights), out, calls[index])
        head, target = skeleton.head(source), stream.x[members]
        p, q = (log_softmax(head.logits(x), dim=-1).flatten(0, 1) for x in (target, out))
        kl = kl_div(q, p, reduction="batchmean", log_target=True)
        distance = ((out - target).square().sum(-1) / target.square().sum(-1)).mean()
        (kl + distance).backward()
    assert loss == pytest.approx((kl + distance).item(), rel=1e-4)
    for given, parameter in zip(streamed, network.parameters(), strict=True):
        assert given is not None and parameter.grad is not None
        assert torch.allclose(given, parameter.grad, rtol=1e-3, atol=1e-6)
    assert any(gradient.abs().max() > 1e-4 for gradient in streamed if gradient is not None)


def test_it_lowers_the_held_out_loss_and_keeps_the_best_state(tiny: Path, tmp_path: Path) -> None:
    fields = config(
        training={"epochs": 0, "polish_epochs": 4},
        calibration={"samples": 128, "length": 64, "held_out": 16},
    )
    report = quantize(tiny, tmp_path / "out", fields)
    assert report.polish is not None and report.polish.warning is None
    losses = report.polish.held_out_loss
    assert len(losses) == 5 and min(losses) < 0.99 * losses[0]


def test_a_polish_that_only_harms_changes_nothing(tiny: Path, tmp_path: Path) -> None:
    harmful = config(training={"epochs": 1, "polish_epochs": 1, "polish_lr": 1.0})
    report = quantize(tiny, tmp_path / "harmed", harmful)
    assert report.polish is not None
    assert report.polish.held_out_loss[1] > report.polish.held_out_loss[0]
    none = config(training={"epochs": 1, "polish_epochs": 0})
    assert quantize(tiny, tmp_path / "none", none).polish is None
    assert contents(tmp_path / "harmed") == contents(tmp_path / "none")


def test_stopped_in_the_polish_and_run_again(tiny: Path, finished: Path, tmp_path: Path) -> None:
    blocks_only(tiny, tmp_path / "out")
    (tmp_path / "out" / "polished").mkdir()  # as if it had been killed while it wrote
    (tmp_path / "out" / "polished" / "00000.safetensors").write_bytes(b"half")
    quantize(tiny, tmp_path / "out", config())
    assert contents(tmp_path / "out") == contents(finished)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"model", "adapter", "report.json", "report.html", "README.md"}


def contents(out_dir: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out_dir)): path.read_bytes()
        for name in ("model", "adapter")
        for path in (out_dir / name).iterdir()
    }
