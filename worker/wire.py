"""What a supervisor and its child process say to each other. This is the child's end.

The child's stdin is its leash: the first line is the `Spec`, a later line `stop` asks it to end
at the next safe point, and the end of the stream means that the supervisor is gone - then the
child ends itself. What the child has to say goes as JSON lines through a pipe of its own, whose
number is its last argument; stdout and stderr are its log.

    {"kind": "event", "type": ..., "data": ...}     an event of the job: phase, progress, ...
    {"kind": "error", "error": ...}                 why it ends with an exit code other than 0
    {"kind": "result", "data": ...}                 metrics of a finished job
"""

import errno
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from apiq_core.errors import ApiQError, InfraError, Stopped, UserError
from apiq_core.events import Event
from jobs.errors import StoreUnavailable

EXIT_DONE = 0
EXIT_FAILED = 1  # like any other number: the machine's fault
EXIT_USER = 2  # the request's fault
EXIT_STOPPED = 75  # stopped at a safe point

STOP = b"stop\n"
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
OOM_SCORE = 500  # when memory runs out the kernel ends the child rather than its supervisor

Message = dict[str, Any]

# settings that hold secrets, and that the child has no need of
KEPT_FROM_CHILD = ("database_url", "broker_url", "secret_key")


@dataclass(frozen=True)
class Spec:
    """What the child is to do."""

    job_id: str
    attempt: int
    input: dict[str, Any]
    scratch_dir: str  # everything it writes goes under here
    settings: dict[str, Any]  # without KEPT_FROM_CHILD
    hub_token: str | None = field(default=None, repr=False)
    base_files: list[dict[str, str]] = field(default_factory=list)  # path, key, sha256

    @property
    def out_dir(self) -> Path:
        """What is in here when the child is done gets published."""
        return Path(self.scratch_dir) / "out"

    def to_line(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"


class Link:
    """The child's end of the wire."""

    def __init__(self, messages_fd: int) -> None:
        self._messages_fd = messages_fd
        self._stop = threading.Event()
        self._lock = threading.Lock()
        first, rest = self._read_line()
        self.spec = Spec(**json.loads(first))
        threading.Thread(target=self._listen, args=(rest,), daemon=True).start()

    def should_stop(self) -> bool:
        return self._stop.is_set()

    def check(self) -> None:
        """Raise `Stopped` if it is to stop."""
        if self.should_stop():
            raise Stopped

    def on_event(self, event: Event) -> None:
        self.tell("event", type=event.type, data=event.data)

    def tell(self, kind: str, **content: Any) -> None:
        """Send a message; ends the process if nobody is left to read it."""
        data = json.dumps({"kind": kind, **content}, default=str).encode() + b"\n"
        try:
            with self._lock:
                while data:
                    data = data[os.write(self._messages_fd, data) :]
        except BrokenPipeError:
            os._exit(EXIT_STOPPED)

    def _read_line(self) -> tuple[bytes, bytes]:
        # not sys.stdin: a thread that waits in its buffer disturbs the interpreter's end
        data = b""
        while b"\n" not in data:
            chunk = os.read(0, 65536)
            if not chunk:
                os._exit(EXIT_STOPPED)
            data += chunk
        first, _, rest = data.partition(b"\n")
        return first, rest

    def _listen(self, data: bytes) -> None:
        while True:
            if STOP in data:
                self._stop.set()
            chunk = os.read(0, 65536)
            if not chunk:  # the supervisor is gone: nobody will publish what we make
                os._exit(EXIT_STOPPED)
            data = data[-len(STOP) :] + chunk


def serve(work: Callable[[Link], dict[str, Any]]) -> int:
    """Run `work` as a child process; returns the exit code.

    What it returns is told as the result, what it raises as the error.
    """
    # the supervisor says when to stop; a Ctrl-C or SIGTERM to the whole group must not
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _volunteer_for_oom()
    link = Link(int(sys.argv[-1]))
    try:
        link.tell("result", data=work(link))
        return EXIT_DONE
    except Stopped:
        return EXIT_STOPPED
    except ApiQError as error:
        print(f"{error.code}: {error.message}", file=sys.stderr)
        link.tell("error", error=error.to_dict())
        return EXIT_USER if isinstance(error, UserError) else EXIT_FAILED
    except OSError as error:
        fault = fault_of(error)
        if fault is None:
            raise
        traceback.print_exc()
        link.tell("error", error=fault.to_dict())
        return EXIT_FAILED


def fault_of(error: Exception) -> InfraError | None:
    """The error of a job that ran out of disk, or whose store is away."""
    if isinstance(error, StoreUnavailable):
        return InfraError("store_unavailable", str(error))
    if isinstance(error, OSError) and error.errno in FULL_DISK:
        return InfraError("disk_full", f"no space left on the disk: {error}")
    return None


def _volunteer_for_oom() -> None:
    try:
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))
    except OSError:
        return  # not Linux, or not permitted: then there is no such order
