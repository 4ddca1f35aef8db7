"""One worker process per device, and a parent that keeps them running.

Each process sees its own GPU alone, so that nothing can land on another one. The parent never
touches a GPU: it passes SIGTERM on, waits until all have drained, and restarts what dies.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog

WORKER_COMMAND = (sys.executable, "-m", "worker")
POLL_S = 0.2
MIN_PAUSE_S = 1.0  # before the first restart; doubles with each
MAX_PAUSE_S = 60.0
STEADY_S = 60.0  # a worker that lived this long is restarted after the shortest pause again
PR_SET_PDEATHSIG = 1

log = structlog.get_logger(__name__)


def run(devices: Sequence[str], command: Sequence[str] = WORKER_COMMAND) -> int:
    """Work on all devices until SIGTERM or Ctrl-C; returns the exit code.

    A worker that keeps dying is started again for ever, ever more slowly: the other devices go
    on, and whatever it needs may come back.
    """
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    members = [Member(device, command, environment_of(device, os.environ)) for device in devices]
    while not stop.wait(POLL_S):
        for member in members:
            member.keep_running()
    for member in members:
        member.terminate()
    return max(member.wait() for member in members)


def environment_of(device: str, inherited: Mapping[str, str]) -> dict[str, str]:
    """What a worker of one device is started with."""
    kind, _, gpu = device.partition(":")
    seen = inherited.get("CUDA_VISIBLE_DEVICES")
    if gpu and seen is not None:  # an index counts among the GPUs that we may see ourselves
        gpus = [name for name in seen.split(",") if name]
        if int(gpu) >= len(gpus):
            sys.exit(
                f"error: APIQ_DEVICES has {device}; CUDA_VISIBLE_DEVICES shows {len(gpus)} GPUs "
                "[illegal_device]"
            )
        gpu = gpus[int(gpu)]
    environment = {k: v for k, v in inherited.items() if k != "APIQ_DEVICES"}
    return environment | {"APIQ_DEVICE": kind, "CUDA_VISIBLE_DEVICES": gpu}


@dataclass
class Member:
    """The worker process of one device."""

    device: str
    command: Sequence[str]
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = None
    pause_s: float = MIN_PAUSE_S
    started: float = 0.0
    start_at: float = 0.0

    def keep_running(self) -> None:
        """Start it if it is due; note its end, and when to start it again."""
        now = time.monotonic()
        if self.process is None:
            if now >= self.start_at:
                self._start(now)
            return
        code = self.process.poll()
        if code is None:
            return
        self.process = None
        if now - self.started > STEADY_S:
            self.pause_s = MIN_PAUSE_S
        log.warning("worker_ended", device=self.device, code=code, again_in_s=self.pause_s)
        self.start_at = now + self.pause_s
        self.pause_s = min(2 * self.pause_s, MAX_PAUSE_S)

    def terminate(self) -> None:
        """Ask it to drain."""
        if self.process is not None:
            self.process.terminate()

    def wait(self) -> int:
        """Its exit code once it has ended; 0 if none was running."""
        code = self.process.wait() if self.process is not None else 0
        # by the signal itself: it was still starting, and had no job to give back
        return 0 if code == -signal.SIGTERM else abs(code)

    def _start(self, now: float) -> None:
        self.process = subprocess.Popen(
            self.command,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is the parent's, which passes it on once
            preexec_fn=_end_with_parent(),
        )
        self.started = now
        log.info("worker_started", device=self.device, pid=self.process.pid)


def _end_with_parent() -> Callable[[], None]:
    """For the new process: SIGTERM once the parent is gone, even if it was killed (Linux only)."""
    parent = os.getpid()
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

    def ask() -> None:
        if prctl is not None:
            prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:
                os._exit(1)

    return ask
