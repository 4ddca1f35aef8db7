"""How long an event is on its way from its commit to a client that follows the job.

Many clients each follow a job of their own; events are written one after the other. What the API
uses of a core is measured twice: while nothing happens, and while events arrive.
"""

import asyncio
import json
import time
from statistics import quantiles
from typing import Any

from benchmarks.load.http_client import request
from benchmarks.load.service import COLUMNS, api, column, rss_mb
from benchmarks.report import show, write
from jobs import leases, repository
from jobs.database import Database
from jobs.job import Job

STREAMS = 200
EVENTS = 600
EVENTS_PER_SECOND = 40
QUIET_S = 8


def main() -> None:
    rows = []
    for name in COLUMNS:
        with column(name) as settings, api(settings) as (process, port):
            database = Database(settings.database_url)
            rows.append({"column": name, **asyncio.run(follow(database, process, port))})
            database.dispose()
    show(f"{STREAMS} streams, {EVENTS_PER_SECOND} events/s: from commit to arrival", rows)
    write("load-streams", {"rows": rows})


async def follow(database: Database, process: Any, port: int) -> dict[str, object]:
    jobs = [begin(database) for _ in range(STREAMS)]
    arrived: dict[tuple[str, int], float] = {}
    open_streams = [await open_stream(port, job.id) for job in jobs]
    readers = [
        asyncio.create_task(read(reader, job.id, arrived))
        for (reader, _), job in zip(open_streams, jobs, strict=True)
    ]
    await asyncio.sleep(2)  # the events so far
    quiet = await cpu_of(process, asyncio.sleep(QUIET_S))
    committed: dict[tuple[str, int], float] = {}
    busy = await cpu_of(process, write_events(database, jobs, committed))
    await asyncio.sleep(2)
    memory = rss_mb(process)
    for reader in readers:
        reader.cancel()
    for _, writer in open_streams:
        writer.close()
    waited = sorted(1000 * (arrived[event] - at) for event, at in committed.items())  # all came
    cuts = quantiles(waited, n=100)
    return {
        "events": len(waited),
        "p50_ms": round(cuts[49], 1),
        "p95_ms": round(cuts[94], 1),
        "p99_ms": round(cuts[98], 1),
        "cpu_quiet_percent": round(100 * quiet, 1),
        "cpu_busy_percent": round(100 * busy, 1),
        "rss_mb": memory,
    }


def begin(database: Database) -> Job:
    """A running job whose lease outlives the measurement."""
    with database.begin() as connection:
        repository.accept(connection, type="quantize", input={})
        job = leases.claim(connection, worker_id="load", device_class="cpu", lease_ttl_s=3600)
    assert job is not None
    return job


async def write_events(
    database: Database, jobs: list[Job], committed: dict[tuple[str, int], float]
) -> None:
    began = time.monotonic()
    seqs = {job.id: job.event_seq for job in jobs}
    for number in range(EVENTS):
        job = jobs[number * 7 % len(jobs)]  # seven and the number of jobs have no common factor
        seqs[job.id] += 1
        await asyncio.to_thread(write_event, database, job)
        committed[job.id, seqs[job.id]] = time.perf_counter()
        due = began + (number + 1) / EVENTS_PER_SECOND
        await asyncio.sleep(max(0.0, due - time.monotonic()))


def write_event(database: Database, job: Job) -> None:
    with database.begin() as connection:
        leases.record(connection, job.id, job.attempt, [("block", {"index": 0, "error": 0.1})])


async def open_stream(port: int, job_id: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request("GET", f"/jobs/{job_id}/events", headers="accept: text/event-stream\r\n"))
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    return reader, writer


async def read(
    reader: asyncio.StreamReader, job_id: str, arrived: dict[tuple[str, int], float]
) -> None:
    while line := await reader.readline():
        if line.startswith(b"data: "):
            arrived[job_id, json.loads(line[6:])["seq"]] = time.perf_counter()


async def cpu_of(process: Any, doing: Any) -> float:
    """Cores that a process uses while something else is awaited."""
    before, began = process.cpu_times(), time.monotonic()
    await doing
    after, seconds = process.cpu_times(), time.monotonic() - began
    spent_s: float = after.user + after.system - before.user - before.system
    return spent_s / seconds
