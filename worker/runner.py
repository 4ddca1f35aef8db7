"""What a ring or a look leads to: claim and run until nothing is runnable."""

import threading

import structlog

from jobs import leases
from jobs.job import Job
from worker.context import Worker
from worker.supervisor import supervise

log = structlog.get_logger(__name__)


def run_until_idle(worker: Worker) -> None:
    """Run jobs one after the other while there are any and the worker is not to end. Who comes
    while another does waits: a ring must not be used up by a worker that is busy.

    Whatever happens to a job ends that job's attempt, never the worker: an attempt that could
    not even write its end is taken back by a sweeper when its lease lapses. A worker pauses as a
    job does: where every attempt fails at once, as without the GPU, it would lose the whole queue.
    """
    with worker.busy:
        _run_until_idle(worker)


class Watch(threading.Thread):
    """Looks for jobs at once, and at an interval until the worker drains: without a broker, too."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(name="watch", daemon=True)
        self._worker = worker

    def run(self) -> None:
        while True:
            try:
                run_until_idle(self._worker)
            except Exception:
                log.exception("watch_broke")
            if self._worker.drain.wait(self._worker.settings.sweep_interval_s):
                return


def _run_until_idle(worker: Worker) -> None:
    losses = 0  # in a row
    while not worker.drain.is_set() and (job := _claim(worker)) is not None:
        log.info("attempt_started", job=job.id, attempt=job.attempt)
        try:
            was_well = supervise(worker, job)
        except Exception:
            log.exception("attempt_broke", job=job.id, attempt=job.attempt)
            was_well = False
        losses = 0 if was_well else losses + 1
        if losses:
            pause_s = leases.backoff_s(losses, worker.settings)
            log.warning("worker_pauses", losses=losses, seconds=pause_s)
            worker.drain.wait(pause_s)


def _claim(worker: Worker) -> Job | None:
    with worker.database.begin() as connection:
        return leases.claim(
            connection,
            worker_id=worker.worker_id,
            device_class=worker.device_class,
            lease_ttl_s=worker.settings.lease_ttl_s,
            max_running_jobs=worker.settings.max_running_jobs_per_owner,
        )
