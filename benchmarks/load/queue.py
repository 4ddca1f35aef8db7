"""A long queue of jobs that do nothing, on several workers: each ends exactly once.

What a job costs beside its work, and whether a worker's memory and open files stay flat.
"""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from sqlalchemy import func, select

from benchmarks.load.service import COLUMNS, MODEL, column, process, rss_mb
from benchmarks.report import show, write
from jobs import counts, repository
from jobs.database import Database
from jobs.schema import artifacts, job_events, jobs
from jobs.states import TERMINAL, State

JOBS = int(os.environ.get("LOAD_JOBS", "10000"))
WORKERS = 4
BATCH = 500
ATTEMPT = ("accepted", "started", "phase", "phase", "succeeded")  # quantizing, uploading


def main() -> None:
    rows, uses = [], []
    for name in COLUMNS:
        with column(name) as settings:
            database = Database(settings.database_url)
            for _ in range(0, JOBS, BATCH):
                with database.begin() as connection:
                    for _ in range(BATCH):
                        repository.accept(connection, type="quantize", input={"model": MODEL})
            with ExitStack() as stack:
                command = ["-m", "benchmarks.load.noop_worker"]
                workers = [
                    stack.enter_context(process(command, settings, f"worker-{number}.log"))
                    for number in range(WORKERS)
                ]
                began = time.monotonic()
                samples = list(watch(database, workers))
                seconds = time.monotonic() - began
                cpu = sum(sum(worker.cpu_times()) for worker in workers)
            check(database)
            database.dispose()
            rows.append(
                {
                    "column": name,
                    "jobs": JOBS,
                    "seconds": round(seconds, 1),
                    "jobs_per_second": round(JOBS / seconds, 1),
                    "worker_and_child_cpu_ms_per_job": round(1000 * cpu / JOBS, 1),
                }
            )
            uses += [{"column": name, **sample} for sample in samples]
    show(f"{WORKERS} workers, jobs that do nothing", rows)
    show("each worker's memory and open files", uses)
    write("load-queue", {"rows": rows, "uses": uses})


def watch(database: Database, workers: list[Any]) -> Iterator[dict[str, object]]:
    """What the workers use when a twentieth, half and 95 % of the jobs have ended; until all."""
    for percent in (5, 50, 95, 100):
        while ended(database) < JOBS * percent // 100:
            assert all(worker.poll() is None for worker in workers)
            time.sleep(0.2)
        if percent < 100:
            yield {
                "ended_percent": percent,
                "rss_mb": " ".join(str(rss_mb(worker)) for worker in workers),
                "open_files": " ".join(str(worker.num_fds()) for worker in workers),
                "threads": " ".join(str(worker.num_threads()) for worker in workers),
            }


def ended(database: Database) -> int:
    with database.read() as connection:
        return sum(n for state, n in counts.by_state(connection).items() if state in TERMINAL)


def check(database: Database) -> None:
    """Every job succeeded, at its first attempt, with one history and its two files."""
    with database.read() as connection:
        rows = connection.execute(select(jobs.c.state, jobs.c.attempt, jobs.c.event_seq)).all()
        counted = select(job_events.c.type, func.count()).group_by(job_events.c.type)
        kinds = {kind: count for kind, count in connection.execute(counted)}
        files = connection.execute(select(func.count()).select_from(artifacts)).scalar()
    assert {tuple(row) for row in rows} == {(State.SUCCEEDED, 1, len(ATTEMPT))}, set(rows)
    assert kinds == {kind: JOBS * ATTEMPT.count(kind) for kind in ATTEMPT}, kinds
    assert (len(rows), files) == (JOBS, 2 * JOBS)
