"""A thread of every worker, from boot: looks after jobs that nobody looks after.

One worker at a time sweeps the records; every worker clears its own host's disk.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import structlog

from jobs import doorbell, downloads, maintenance
from jobs.artifacts import job_prefix
from jobs.datasets.files import dataset_prefix
from jobs.directories import deleted
from worker import health
from worker.checkpoints import clear
from worker.context import Worker
from worker.logs import redact
from worker.publish import discard

LEADER_INTERVALS = 3  # a leader that skips this many sweeps is replaced
STOP_WITHIN_S = 5.0

log = structlog.get_logger(__name__)


class Sweeper(threading.Thread):
    """Sweeps at once, then at an interval until `stop`. Survives a database that is away."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(name="sweeper", daemon=True)
        self._worker = worker
        self._end = threading.Event()

    def run(self) -> None:
        while True:
            try:
                sweep(self._worker, self._end)
                prune_scratch(self._worker)
                downloads.prune(self._worker.settings)
                health.touch(self._worker.settings, self._worker.worker_id)
            except Exception:
                log.exception("sweep_broke")
            if self._end.wait(self._worker.settings.sweep_interval_s):
                return

    def stop(self) -> None:
        """Not for long: a store that hangs must not hold up the end of the process."""
        self._end.set()
        self.join(STOP_WITHIN_S)
        health.forget(self._worker.settings, self._worker.worker_id)


def sweep(worker: Worker, end: threading.Event | None = None) -> None:
    """One sweep, if this worker leads. Records come first: for the store there is an interval's
    time, and what that does not do in it waits for another sweep, or for the end of the job."""
    settings = worker.settings
    until = time.monotonic() + settings.sweep_interval_s
    with worker.database.begin() as connection:
        ttl_s = LEADER_INTERVALS * settings.sweep_interval_s
        if not maintenance.lead(connection, worker.worker_id, ttl_s):
            return
        swept = maintenance.sweep(connection, settings)
    doorbell.prune(settings)
    for job in swept.taken_back:
        if job.error is not None and job.error["code"] in maintenance.EXPIRED:
            log.warning("job_expired", job=job.id, attempt=job.attempt, code=job.error["code"])
        else:
            log.warning("job_taken_back", job=job.id, attempt=job.attempt, state=job.state)
    for remove in _removals(worker, swept):
        if time.monotonic() > until or (end is not None and end.is_set()):
            return
        remove()


def _removals(worker: Worker, swept: maintenance.Swept) -> Iterator[Callable[[], None]]:
    """What the store is to do, one after the other."""
    for job in swept.taken_back:
        yield partial(discard, worker.store, job)
        if job.is_terminal:
            yield partial(clear, worker, job)
    for job in swept.to_clear:
        yield partial(clear, worker, job)
    for job_id in swept.deleted_jobs:
        yield partial(_remove_job, worker, job_id)
    for dataset_id in swept.deleted_datasets:
        yield partial(_remove_dataset, worker, dataset_id)
    yield partial(_prune, worker)


def _remove_job(worker: Worker, job_id: str) -> None:
    with _or_later(job=job_id):
        worker.store.delete_prefix(job_prefix(job_id))
        with worker.database.begin() as connection:
            maintenance.forget_job(connection, job_id)


def _remove_dataset(worker: Worker, dataset_id: str) -> None:
    with _or_later(dataset=dataset_id):
        worker.store.delete_prefix(dataset_prefix(dataset_id))
        with worker.database.begin() as connection:
            maintenance.forget_dataset(connection, dataset_id)


def _prune(worker: Worker) -> None:
    with _or_later():
        worker.store.prune()


@contextmanager
def _or_later(**what: str) -> Iterator[None]:
    """What the store does not do now, another sweep asks for again; others need not wait."""
    try:
        yield
    except OSError as error:
        log.warning("not_removed", error=redact(repr(error)), **what)


def prune_scratch(worker: Worker) -> None:
    """Delete what attempts left behind that no longer hold their job, as after a kill. One whose
    supervisor is about to hear that it lost the job is left to that: its log is still to be stored.

    The directory of an attempt is made after its claim was committed, so a live one is never
    taken for a leftover.
    """
    for directory in filter(Path.is_dir, worker.settings.scratch_dir.glob("*.*")):
        job_id, _, attempt = directory.name.partition(".")
        with worker.database.read() as connection:
            held = attempt.isdecimal() and maintenance.is_held(connection, job_id, int(attempt))
        if not held:
            deleted(directory)
