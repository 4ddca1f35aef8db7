"""Start the API and a worker as processes, restart what dies, stop everything cleanly."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from apiq_client import lock, rooms
from apiq_client.errors import ApiqError
from apiq_client.terminal import err, out

READY_WITHIN_S = 90.0
STOP_WITHIN_S = 30.0  # a worker brings its job to a safe point first
POLL_S = 0.2
MAX_RESTARTS = 5  # of one part within RESTART_WINDOW_S; then there is something wrong
RESTART_WINDOW_S = 60.0
MAX_LOG_BYTES = 10 * 1024 * 1024
INTERRUPTED = 128 + signal.SIGINT  # the exit code, as shells have it
STOPPING = (
    f"stopping, which takes up to {STOP_WITHIN_S:.0f} s (Ctrl-C again: at once). A running job "
    "goes back to the queue; the next `apiq up` goes on after its last block, or its last step of "
    "training, that was stored"
)
PR_SET_PDEATHSIG = 1


@dataclass
class Part:
    """One process of the service; it has a process group of its own."""

    name: str
    command: list[str]
    log: Path
    inherited: tuple[int, ...] = ()  # file descriptors
    process: subprocess.Popen[bytes] | None = None
    starts: deque[float] = field(default_factory=deque)

    def start(self, environment: dict[str, str]) -> None:
        if self.log.exists() and self.log.stat().st_size > MAX_LOG_BYTES:
            self.log.replace(self.log.with_suffix(".old.log"))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=self.inherited,
                start_new_session=True,  # Ctrl-C is ours; the parts are told in order
                preexec_fn=_die_with_parent(),  # no thread was started
            )
        self.starts.append(time.monotonic())

    def may_restart(self) -> bool:
        while self.starts and self.starts[0] < time.monotonic() - RESTART_WINDOW_S:
            self.starts.popleft()
        return len(self.starts) <= MAX_RESTARTS

    def end_of_log(self) -> str:
        with self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - 4096))
            return log.read().decode(errors="replace")

    def last_words(self) -> str:
        return rooms.last_words(self.end_of_log())

    def kill_group(self) -> None:
        """End whatever is left of the part, its own children included."""
        if self.process is not None:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                return
            self.process.wait()


class Supervisor:
    """What `apiq up` runs; `run` returns its exit code."""

    def __init__(self, data_dir: Path, host: str, port: int) -> None:
        self.data_dir = data_dir
        self.host = host
        self.port = port
        self._stop = threading.Event()

    def run(self) -> int:
        was_interrupted = threading.Event()

        def stop(number: int, _: object) -> None:
            if number == signal.SIGINT:
                was_interrupted.set()
            self._stop.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        with lock.hold(self.data_dir) as holder, self._listen() as listener:
            url = f"http://{_bracketed(self.host)}:{listener.getsockname()[1]}"
            lock.describe(holder, f"pid {os.getpid()} at {url}")
            logs = self.data_dir / "logs"
            logs.mkdir(exist_ok=True)
            environment = self._environment(listener.getsockname()[1])
            rooms.run(
                "migrations",
                code="migration_failed",
                capture=True,
                environment=environment,
                outlives_ctrl_c=True,  # it waits until the migration is through
            )
            python = [sys.executable, "-m"]
            fd = listener.fileno()
            parts = [
                Part("api", [*python, "api", "--fd", str(fd)], logs / "api.log", (fd,)),
                Part("worker", [*python, "worker"], logs / "worker.log"),
            ]
            try:
                for part in parts:
                    part.start(environment)
                self._wait_until_ready(url, parts)
                if not self._stop.is_set():
                    self._announce(url, parts)
                self._keep_running(parts, environment)
                out.print(STOPPING)
                sys.stdout.flush()
            finally:
                self._stop_all(parts)
        return INTERRUPTED if was_interrupted.is_set() else 0

    def _listen(self) -> socket.socket:
        """The port is held here: while the API restarts, clients queue instead of failing."""
        try:
            family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
            return socket.create_server((self.host, self.port), family=family, backlog=512)
        except OSError as error:
            raise ApiqError(
                "port_in_use",
                f"cannot listen on {_bracketed(self.host)}:{self.port} ({error.strerror}); "
                "give another --port, 0 takes a free one",
            ) from None

    def _environment(self, port: int) -> dict[str, str]:
        return os.environ | {
            "APIQ_DATA_DIR": str(self.data_dir),
            "APIQ_HOST": self.host,
            "APIQ_PORT": str(port),
            "PYTHONUNBUFFERED": "1",
        }

    def _wait_until_ready(self, url: str, parts: list[Part]) -> None:
        deadline = time.monotonic() + READY_WITHIN_S
        while not self._stop.is_set():
            for part in parts:
                if part.process is None or part.process.poll() is not None:
                    raise rooms.told(part.end_of_log()) or ApiqError(
                        "start_failed", f"{part.name} ended: {part.last_words()}"
                    )
            try:
                if httpx.get(f"{url}/readyz", timeout=5).is_success:
                    return
            except httpx.TransportError:
                pass
            if time.monotonic() > deadline:
                raise ApiqError(
                    "start_failed", f"not ready after {READY_WITHIN_S:.0f} s; see {parts[0].log}"
                )
            self._stop.wait(POLL_S)

    def _announce(self, url: str, parts: list[Part]) -> None:
        """One line a part, saying what it uses; the URL comes last, when all of it is true."""
        for name, uses in httpx.get(f"{url}/readyz", timeout=5).json()["uses"].items():
            out.print(f"{name:10}{uses}")
        for part in parts:
            assert part.process is not None
            out.print(f"{part.name:10}pid {part.process.pid}, log {part.log}")
        out.print(f"apiq is up at {url} (docs: {url}/docs, stop: Ctrl-C)")
        sys.stdout.flush()

    def _keep_running(self, parts: list[Part], environment: dict[str, str]) -> None:
        while not self._stop.wait(POLL_S):
            for part in parts:
                assert part.process is not None
                code = part.process.poll()
                if code is None:
                    continue
                words = part.last_words()
                part.kill_group()
                if not part.may_restart():
                    raise ApiqError(
                        "part_keeps_dying",
                        f"{part.name} ended {len(part.starts)} times within "
                        f"{RESTART_WINDOW_S:.0f} s; the last words in {part.log}: {words}",
                    )
                part.start(environment)
                err.print(f"{part.name} ended with {code}: {words}; restarted", style="yellow")

    def _stop_all(self, parts: list[Part]) -> None:
        self._stop.clear()  # from here on another Ctrl-C means: at once
        running = [part for part in parts if part.process and part.process.poll() is None]
        for part in running:
            assert part.process is not None
            part.process.terminate()
        deadline = time.monotonic() + STOP_WITHIN_S
        while any(part.process and part.process.poll() is None for part in running):
            if time.monotonic() > deadline or self._stop.wait(POLL_S):
                break
        for part in parts:
            part.kill_group()


def _bracketed(host: str) -> str:
    """As a URL has it."""
    return f"[{host}]" if ":" in host else host


def _die_with_parent() -> Callable[[], None]:
    """For the new process: SIGTERM once we are gone, even if we are killed (Linux only).

    The signal follows the *thread* that started the process: ours is the main thread.
    """
    parent = os.getpid()
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

    def ask() -> None:
        if prctl is not None:
            prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:
                os._exit(1)

    return ask
