"""Where a run is, how long its phases took, how much memory they needed, and when it will end."""

import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch

from apiq_core.events import Event, OnEvent

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")


Kind = Literal["retrace", "quantize", "polish", "evaluate", "score"]
NO_BLOCKS = ("score", "polish")
GUESS_LAPS = 4  # a guess counts as so many laps: the first real one must not make the ETA jump


class Meter:
    """Tells `on_event` each phase and each block; keeps seconds and peak memory by phase.

    One bar covers quantizing and evaluating. Their blocks cost differently, and so do the parts of
    the text that are scored last, so the ETA is summed per kind; what was not seen yet has a guess
    of its seconds. Blocks that were taken over from an earlier run are only retraced - forward
    passes - and what they took then counts as spent.
    """

    def __init__(self, on_event: OnEvent, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self.peak_memory_bytes: dict[str, int] = {}
        self._on_event = on_event
        self._device = device
        self._left: dict[Kind, int] = {}
        self._spent: dict[Kind, list[float]] = {
            "retrace": [],
            "quantize": [],
            "polish": [],
            "evaluate": [],
            "score": [],
        }
        self._total = 0
        self._earlier: list[float] = []
        self._guessed_s: Mapping[Kind, float] = {}
        self._start = self._last = time.monotonic()
        self._percent = 0.0

    def expect(
        self,
        *,
        earlier: Sequence[float],
        quantize: int,
        evaluate: int,
        score: int,
        guessed_s: Mapping[Kind, float],
        polish: int = 0,
    ) -> None:
        """So many blocks are to come; `earlier` has the seconds of those that are retraced.

        `score` counts the parts of the text that the evaluation ends with, `polish` the steps of
        the end-to-end polish; they are no blocks. `guessed_s` has what one of a kind is taken to
        cost before it was seen.
        """
        self._left = {"retrace": len(earlier), "quantize": quantize, "evaluate": evaluate}
        self._total = sum(self._left.values())
        self._left |= {"score": score, "polish": polish}
        self._earlier = list(earlier)
        self._guessed_s = guessed_s
        if earlier:
            self._on_event(Event("resumed", {"blocks": len(earlier)}))

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._on_event(Event("phase", {"phase": name}))
        _reset_peak(self._device)
        start = self._last = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(time.monotonic() - start, 3)
            self.peak_memory_bytes[name] = _peak_bytes(self._device)

    def phase_peak_bytes(self) -> int:
        """Peak memory since the present phase began."""
        return _peak_bytes(self._device)

    def lap_s(self, at_s: float | None = None) -> float:
        """Seconds since the last block, until now or until `at_s` of the monotonic clock."""
        return round((time.monotonic() if at_s is None else at_s) - self._last, 3)

    def block_retraced(self) -> None:
        self._step("retrace")

    def block_quantized(self, index: int, error: float, warning: str | None) -> None:
        seconds = self._step("quantize")
        self._on_event(Event("block", {"index": index, "error": error, "seconds": seconds}))
        if warning:
            self._on_event(Event("warning", {"code": "diverged", "message": warning}))

    def step_polished(self) -> None:
        self._step("polish")

    def block_evaluated(self) -> None:
        self._step("evaluate")

    def part_scored(self) -> None:
        self._step("score")

    def _step(self, kind: Kind) -> float:
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        self._spent[kind].append(seconds)
        self._left[kind] -= 1
        eta = sum(left * self._mean(kind) for kind, left in self._left.items())
        elapsed = now - self._start + sum(self._earlier)
        self._percent = max(self._percent, 100 * elapsed / (elapsed + eta))  # a bar goes forward
        progress = {
            "done": sum(len(laps) for kind, laps in self._spent.items() if kind not in NO_BLOCKS),
            "total": self._total,
            "unit": "block",
            "percent": round(self._percent, 1),
            "eta_seconds": round(eta, 1),
        }
        self._on_event(Event("progress", progress))
        return seconds

    def _mean(self, kind: Kind) -> float:
        seen = self._spent[kind] + (self._earlier if kind == "quantize" else [])
        if kind in self._guessed_s:
            seen = seen + GUESS_LAPS * [self._guessed_s[kind]]
        return sum(seen) / len(seen) if seen else 0.0


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif CLEAR_REFS.exists():
        try:
            CLEAR_REFS.write_text("5")  # Linux: VmHWM starts over
        except OSError:
            return  # not permitted in some containers: the peak is then that of the whole run


def _peak_bytes(device: torch.device) -> int:
    """Peak resident memory of the process, or of the device if it is a GPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if STATUS.exists():
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
