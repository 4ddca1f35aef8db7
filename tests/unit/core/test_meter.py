"""The ETA of runs whose durations are known."""

import random
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from apiq_core import meter
from apiq_core.events import Event
from apiq_core.meter import Kind, Meter

# seconds on two cores: SmolLM2-135M (64 samples, 8 windows scored); a large model of few blocks; a
# small one with a wide vocabulary, where scoring is what takes long
RUNS: dict[str, dict[Kind, tuple[int, float]]] = {
    "135M": {"quantize": (30, 10.0), "evaluate": (30, 1.7), "score": (8, 2.5)},
    "7B": {"quantize": (32, 900.0), "evaluate": (32, 45.0), "score": (16, 6.0)},
    "wide": {"quantize": (12, 4.0), "evaluate": (12, 0.8), "score": (16, 12.0)},
    "rtn": {"quantize": (30, 0.4), "evaluate": (30, 1.7), "score": (8, 2.5)},
    "not scored": {"quantize": (30, 10.0)},
}
NOISE = 0.15  # of a lap, up or down
GUESS_OFF = 0.25  # of what was tried out once, up or down
MAX_RISE = 1.1  # from one lap to the next; the second block may well take 15 % more than the first


class Run:
    """A meter, the clock that it reads, and every progress that it told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.told: list[tuple[float, float, float]] = []  # (when, percent, eta)
        monkeypatch.setattr(meter, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.meter = Meter(self._hear, torch.device("cpu"))

    def _hear(self, event: Event) -> None:
        if event.type == "progress":
            self.told.append((self.now, event.data["percent"], event.data["eta_seconds"]))

    def go(self, laps: list[tuple[Kind, float]]) -> None:
        steps: dict[Kind, Callable[[], None]] = {
            "retrace": self.meter.block_retraced,
            "quantize": lambda: self.meter.block_quantized(0, 0.0, None),
            "evaluate": self.meter.block_evaluated,
            "score": self.meter.part_scored,
        }
        for kind, seconds in laps:
            self.now += seconds
            steps[kind]()


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("retraced", [0, 5])
@pytest.mark.parametrize("name", RUNS)
def test_the_eta_is_near_the_truth_and_hardly_ever_rises(
    monkeypatch: pytest.MonkeyPatch, name: str, retraced: int, sign: int
) -> None:
    noise = random.Random(7)
    costs = RUNS[name]
    count, block_s = costs["quantize"]
    laps: list[tuple[Kind, float]] = [("retrace", 0.05 * block_s)] * retraced
    laps += [
        (kind, seconds * noise.uniform(1 - NOISE, 1 + NOISE))
        for kind, (times, seconds) in costs.items()
        for _ in range(times - (retraced if kind == "quantize" else 0))
    ]
    run = Run(monkeypatch)
    run.meter.expect(
        earlier=[block_s] * retraced,
        quantize=count - retraced,
        evaluate=costs.get("evaluate", (0, 0.0))[0],
        score=costs.get("score", (0, 0.0))[0],
        guessed_s={
            kind: seconds * (1 + sign * GUESS_OFF)
            for kind, (_, seconds) in costs.items()
            if kind != "quantize"
        },
    )
    run.go(laps)
    end = run.now
    for when, _, eta in run.told:
        assert eta == pytest.approx(end - when, rel=0.3, abs=1.0), (when, end)
    for (_, percent, eta), (_, later_percent, later_eta) in zip(
        run.told, run.told[1:], strict=False
    ):
        assert later_eta <= MAX_RISE * eta
        assert later_percent >= percent
    assert run.told[-1][1:] == (100.0, 0.0)


def test_a_guess_that_was_far_off_is_soon_made_good(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch)
    run.meter.expect(
        earlier=[], quantize=1, evaluate=30, score=0, guessed_s={"evaluate": 1.0, "score": 0.0}
    )
    laps: list[tuple[Kind, float]] = [("evaluate", 3.0)] * 15
    run.go([("quantize", 10.0), *laps])
    assert run.told[-1][2] == pytest.approx(15 * 3.0, rel=0.2)
