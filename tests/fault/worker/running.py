"""A worker in this process, and jobs that it runs."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from jobs.job import Job
from tests.fault.worker.support import House, eventually
from worker.context import Worker
from worker.runner import run_until_idle


def run_to_end(house: House, worker: Worker, job: Job) -> Job:
    """Run, and run again after each pause, until the job has ended."""

    def ended() -> Job | None:
        run_until_idle(worker)
        return found if (found := house.get(job)).is_terminal else None

    return eventually(ended, "the end")


@contextmanager
def running(worker: Worker) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=run_until_idle, args=(worker,))
    thread.start()
    yield thread
    thread.join(30)
    assert not thread.is_alive()
