"""The output of a child, without secrets, in the artifact store while it is still written."""

import os
import re
import time
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import structlog

from jobs.artifacts import ArtifactStore
from worker.aside import aside

MAX_LOG_BYTES = 1024 * 1024  # of a longer log the end is kept
MAX_LINE_CHARACTERS = 500
REFRESH_INTERVAL_S = 2.0

BLANK = "[redacted]"
SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|API_?KEY|ACCESS_KEY", re.IGNORECASE)
MIN_SECRET_CHARACTERS = 8  # a shorter value would blank out ordinary words
SECRETS = re.compile(
    r"(?P<key>\bapiq_)[A-Za-z0-9_-]{40,}"  # shorter ones are names of modules
    r"|(?P<before>\b(?:hf|sk|gh[pousr])_|\bBearer\s+|\bBasic\s+)[A-Za-z0-9._~+/=-]{8,}"
    r"|(?P<scheme>://)[^\s/@:]*:[^\s/@]+@"
)

log = structlog.get_logger(__name__)


def redact(text: str, *secrets: str) -> str:
    """Blank out `secrets`, those of this process's environment, and what looks like one."""
    own = [value for name, value in os.environ.items() if SECRET_NAME.search(name)]
    for value in (*secrets, *own):
        if len(value) >= MIN_SECRET_CHARACTERS:
            text = text.replace(value, BLANK)
    return SECRETS.sub(lambda m: f"{m['key'] or m['before'] or m['scheme']}{BLANK}", text)


def redact_all(data: Any, *secrets: str) -> Any:
    """`redact` every text in plain JSON data."""
    if isinstance(data, str):
        return redact(data, *secrets)
    if isinstance(data, list):
        return [redact_all(value, *secrets) for value in data]
    if isinstance(data, dict):
        return {redact(key, *secrets): redact_all(x, *secrets) for key, x in data.items()}
    return data


class ChildLog:
    """A file that a child writes to, and its stored copy."""

    def __init__(self, path: Path, store: ArtifactStore, key: str) -> None:
        self.path = path
        self.secrets: tuple[str, ...] = ()  # blanked out beside what `redact` knows
        self._store = store
        self._key = key
        self._storing: Future[None] | None = None
        self._stored_size = 0
        self._stored_at = -REFRESH_INTERVAL_S

    def refresh(self) -> None:
        """Store what was printed if there is more and it is time. Aside: the store may hang."""
        is_due = time.monotonic() - self._stored_at >= REFRESH_INTERVAL_S
        if is_due and (self._storing is None or self._storing.done()):
            self._begin()

    def finish(self, within_s: float) -> None:
        """Store the rest; the caller waits at most `within_s`."""
        deadline = time.monotonic() + within_s
        if not wait(self.under_way(), within_s).not_done:
            self._begin()
            wait(self.under_way(), max(0.0, deadline - time.monotonic()))

    def under_way(self) -> list[Future[None]]:
        """What the store was asked for last."""
        return [] if self._storing is None else [self._storing]

    def _begin(self) -> None:
        self._stored_at = time.monotonic()
        self._storing = aside(self._store_it)

    def _store_it(self) -> None:
        """Never fails: it is only a log."""
        try:
            size = self.path.stat().st_size
            if size == self._stored_size:
                return
            copy = self.path.with_suffix(".redacted")
            copy.write_text(redact(self._tail(MAX_LOG_BYTES), *self.secrets), encoding="utf-8")
            self._store.put_file(self._key, copy)
            self._stored_size = size
        except OSError as error:
            log.warning("log_not_stored", key=self._key, error=repr(error))

    def last_line(self) -> str | None:
        """The last thing it said."""
        try:
            lines = redact(self._tail(8192), *self.secrets).strip().splitlines()
        except OSError:
            return None
        return lines[-1][-MAX_LINE_CHARACTERS:] if lines else None

    def _tail(self, size_bytes: int) -> str:
        with self.path.open("rb") as file:
            left_out = max(0, self.path.stat().st_size - size_bytes)
            file.seek(left_out)
            text = file.read().decode("utf-8", errors="replace")
        if left_out:  # begin with a whole line: half a secret would not be recognised
            text = f"[{left_out} bytes left out]\n" + text.partition("\n")[2]
        return text
