"""The worker process: a Celery consumer, beside it one that looks for itself, and the sweeper."""

import signal
import sys
from collections.abc import Sequence
from typing import Any

from celery import signals

from jobs import doorbell
from jobs.artifacts import open_store
from jobs.database import Database
from jobs.log_lines import log_lines
from jobs.repository import ANY_DEVICE
from jobs.settings import settings_or_exit
from worker.context import Worker
from worker.runner import Watch, run_until_idle
from worker.sweeper import Sweeper

CHILD_COMMAND = (sys.executable, "-m", "worker.child")


def main(child_command: Sequence[str] = CHILD_COMMAND) -> int:
    """Work until SIGTERM or Ctrl-C; returns the exit code.

    On the signal running jobs are brought to a safe point and given back.
    """
    settings = settings_or_exit()
    log_lines()
    worker = Worker(settings, Database(settings.database_url), open_store(settings), child_command)
    celery = doorbell.app(settings)
    queues = [doorbell.queue_of(device) for device in (ANY_DEVICE, worker.device_class)]

    @celery.task(name=doorbell.RING)  # type: ignore[untyped-decorator]
    def ring() -> None:
        run_until_idle(worker)

    def drain(**_: Any) -> None:
        worker.drain.set()

    signals.worker_shutting_down.connect(drain, weak=False)
    # from the first job on, which may be before the consumer listens to them itself
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    sweeper, watch = Sweeper(worker), Watch(worker)
    try:
        sweeper.start()
        watch.start()
        consumer = celery.Worker(
            # a thread, so that the consumer goes on answering its broker while a job runs for
            # hours; the work itself is in a child process. One at a time: a job wants the whole
            # device.
            pool="threads",
            concurrency=1,
            queues=queues,
            hostname=worker.worker_id.replace(":", "-"),
            quiet=True,
            # they are for workers that talk to each other; ours meet in the database
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
        )
        consumer.start()
    finally:
        was_asked = worker.drain.is_set()
        drain()
        watch.join()
        sweeper.stop()
        worker.database.dispose()
    return 0 if was_asked else int(consumer.exitcode or 0)  # Celery calls a Ctrl-C a failure
