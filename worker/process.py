"""The supervisor's end of the wire: one child process."""

import json
import os
import select
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from worker.wire import KEPT_FROM_CHILD, STOP, Message, Spec

# threads that spin while they wait take the cores from whatever else runs, and then wait for it:
# beside one other job a job took 20 times as long (docs/results/threads.md)
CHILD_DEFAULTS = {"PYTHONUNBUFFERED": "1", "OMP_WAIT_POLICY": "PASSIVE"}


class Child:
    """A running child; leaving the `with` ends it."""

    def __init__(self, command: Sequence[str], spec: Spec, log_path: Path) -> None:
        kept = {f"APIQ_{name.upper()}" for name in KEPT_FROM_CHILD}
        environment = {name: value for name, value in os.environ.items() if name not in kept}
        self._messages, its_end = os.pipe()
        try:
            with log_path.open("ab") as log:
                self._process = subprocess.Popen(
                    [*command, str(its_end)],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    pass_fds=(its_end,),
                    env=CHILD_DEFAULTS | environment,
                )
        except BaseException:
            os.close(self._messages)
            raise
        finally:
            os.close(its_end)
        os.set_blocking(self._messages, False)
        self._partial = b""
        self._order(spec.to_line())

    def read(self, timeout_s: float) -> list[Message]:
        """What the child said since the last call; waits for something at most `timeout_s`."""
        readable, _, _ = select.select([self._messages], [], [], timeout_s)
        data = self._partial
        while readable:
            try:
                chunk = os.read(self._messages, 65536)
            except BlockingIOError:
                break
            if not chunk:  # its end is closed: it is about to exit
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(timeout_s)
                break
            data += chunk
        *lines, self._partial = data.split(b"\n")
        return [json.loads(line) for line in lines]

    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._process.poll()

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        """Ask it to end at the next safe point."""
        self._order(STOP)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()

    def _order(self, data: bytes) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it ended; its exit code says how
            self._process.stdin.write(data)
            self._process.stdin.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        os.close(self._messages)
