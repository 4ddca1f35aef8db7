"""A thread that keeps the lease of one attempt, and hears what the record says about it."""

import threading
import time
from typing import Self

import structlog
from sqlalchemy.exc import DBAPIError

from jobs import leases
from jobs.errors import LeaseLost
from jobs.job import Job
from worker.context import Worker

log = structlog.get_logger(__name__)


class Heart:
    """Beats while the `with` lasts. `cancel` and `lost` are only ever set, never cleared."""

    def __init__(self, worker: Worker, job: Job) -> None:
        self.cancel = threading.Event()
        self.lost = threading.Event()
        self._worker = worker
        self._job = job
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"heart-{job.id}", daemon=True)

    def _run(self) -> None:
        settings = self._worker.settings
        renewed = time.monotonic()
        while not self._end.wait(min(settings.cancel_poll_s, settings.heartbeat_interval_s)):
            due = time.monotonic() - renewed >= settings.heartbeat_interval_s
            try:
                began = time.monotonic()
                answer = self._beat() if due else self._look()
                if due:
                    renewed = began
                if answer.cancel:
                    self.cancel.set()
            except LeaseLost:
                self.lost.set()
                return
            except DBAPIError as error:
                log.warning("beat_failed", job=self._job.id, error=str(error.orig))
                if time.monotonic() - renewed > settings.lease_ttl_s:
                    self.lost.set()  # whatever the record says by now, it is not ours to rely on
                    return

    def _beat(self) -> leases.Beat:
        with self._worker.database.begin() as connection:
            ttl_s = self._worker.settings.lease_ttl_s
            return leases.beat(connection, self._job.id, self._job.attempt, ttl_s)

    def _look(self) -> leases.Beat:
        with self._worker.database.read() as connection:
            return leases.look(connection, self._job.id, self._job.attempt)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._end.set()
        self._thread.join()
