"""What a child tells, on its way into the record."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from jobs import leases
from jobs.database import Database
from jobs.job import Job
from jobs.rows import NewEvent
from worker.logs import redact_all
from worker.plain import plain
from worker.wire import Message

FLUSH_INTERVAL_S = 1.0
# a job shows its progress at every flush; its history, which stays, has it this often, or when a
# percent is done
PROGRESS_EVENT_INTERVAL_S = 10.0

Also = Callable[[Connection], None]

log = structlog.get_logger(__name__)


class Journal:
    """Gathers messages and writes them in batches; of several progress reports only the last."""

    def __init__(self, database: Database, job: Job) -> None:
        self.result: dict[str, Any] | None = None
        self.error: dict[str, Any] | None = None
        self.secrets: tuple[str, ...] = ()  # blanked out beside what `redact` knows
        self._database = database
        self._job = job
        self._events: list[NewEvent] = []
        self._phase: str | None = None  # not written yet
        self._entered: str | None = None
        self._progress: dict[str, Any] | None = None
        self._told_percent = -1.0  # by the last event of progress
        self._told_at = 0.0
        self._flushed_at = -FLUSH_INTERVAL_S

    def take(self, messages: Sequence[Message]) -> None:
        for said in messages:
            message = plain(redact_all(said, *self.secrets))
            kind = said["kind"]
            if kind == "result":
                self.result = message["data"]
            elif kind == "error":
                self.error = message["error"]
            elif said["type"] == "phase":
                self.enter(message["data"]["phase"])
            elif said["type"] == "progress":
                self._progress = message["data"]
            else:
                self._events.append((message["type"], message["data"]))

    def enter(self, phase: str) -> None:
        """The job does something else from now on. Supervisor and child both bring things here."""
        if phase == self._entered:
            return
        self._phase = self._entered = phase
        self.tell("phase", {"phase": phase})

    def tell(self, kind: str, data: dict[str, Any]) -> None:
        """An event of the supervisor's own."""
        self._events.append((kind, data))

    def flush(self, *, now: bool = False, also: Also | None = None) -> bool:
        """Write if there is something and it is time; raises `LeaseLost`.

        `also` writes more in the same transaction. A database that is away only delays it: false.
        """
        is_due = now or time.monotonic() - self._flushed_at >= FLUSH_INTERVAL_S
        if not is_due or not (self._events or self._progress or also):
            return True
        self._flushed_at = time.monotonic()
        try:
            with self._database.begin() as connection:
                self._write(connection, with_progress=self._is_news())
                if also is not None:
                    also(connection)
        except OperationalError as error:
            log.warning("journal_delayed", job=self._job.id, error=str(error.orig))
            return False
        self._events, self._phase, self._progress = [], None, None
        return True

    def write(self, connection: Connection) -> None:
        """Write what is not flushed yet, in the caller's transaction; raises `LeaseLost`."""
        self._write(connection, with_progress=True)

    def _is_news(self) -> bool:
        return (
            abs(_percent(self._progress) - self._told_percent) >= 1
            or time.monotonic() - self._told_at >= PROGRESS_EVENT_INTERVAL_S
        )

    def _write(self, connection: Connection, *, with_progress: bool) -> None:
        events = list(self._events)
        if self._progress and with_progress:
            events.append(("progress", self._progress))
            self._told_percent, self._told_at = _percent(self._progress), time.monotonic()
        if events or self._progress:
            leases.record(
                connection,
                self._job.id,
                self._job.attempt,
                events,
                phase=self._phase,
                progress=self._progress,
            )


def _percent(progress: dict[str, Any] | None) -> float:
    return float((progress or {}).get("percent") or 0.0)
