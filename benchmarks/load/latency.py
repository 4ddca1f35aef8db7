"""From POST to `succeeded` with idle workers: where the time goes.

A job that does nothing, on the API and one worker as they are deployed; then how long the real
child takes from its start to its first event and to having imported what it works with.
"""

import subprocess
import sys
import time
from itertools import pairwise
from statistics import median
from typing import Any

import httpx

from benchmarks.load.service import COLUMNS, MODEL, api, column, process
from benchmarks.report import show, write
from jobs.database import Database
from jobs.repository import events_after

JOBS = 12
PAUSE_S = 0.37  # no multiple of any interval of the service
BODY = {"model": MODEL, "bits": 2, "group_size": 32}
IMPORTS = ("worker.child", "worker.child, apiq_core.quantize")


def main() -> None:
    rows = []
    for name in COLUMNS:
        worker = ["-m", "benchmarks.load.noop_worker"]
        with column(name) as settings, api(settings) as (_, port):
            database = Database(settings.database_url)
            with process(worker, settings, "worker.log"), httpx.Client() as http:
                found = [one_job(http, database, port) for _ in range(JOBS + 1)][1:]
            database.dispose()
        for step in found[0]:
            took = [job[step] for job in found]
            rows.append(
                {
                    "column": name,
                    "step": step,
                    "p50_ms": round(median(took), 1),
                    "max_ms": round(max(took), 1),
                }
            )
    imports = [{"import": names, "seconds": round(import_s(names), 2)} for names in IMPORTS]
    show(f"POST to succeeded, {JOBS} jobs one after the other", rows)
    show("the real child's imports, in a fresh process", imports)
    write("load-latency", {"rows": rows, "imports": imports})


def one_job(http: httpx.Client, database: Database, port: int) -> dict[str, float]:
    """Milliseconds of each step, by the database's clock but for the first and the whole."""
    url = f"http://127.0.0.1:{port}/jobs"
    time.sleep(PAUSE_S)
    began = time.monotonic()
    job: dict[str, Any] = http.post(url, json=BODY).raise_for_status().json()
    posted = time.monotonic()
    while job["state"] not in ("succeeded", "failed"):
        job = http.get(f"{url}/{job['id']}?wait=30", timeout=60).raise_for_status().json()
    ended = time.monotonic()
    assert job["state"] == "succeeded", job
    with database.read() as connection:
        at = [event.at.timestamp() for event in events_after(connection, job["id"])]
    steps = pairwise(at)
    names = (
        "accepted to claimed",
        "claimed to the child's first event",
        "to the child's end",
        "to published",
    )
    return {
        "POST": 1000 * (posted - began),
        **{name: 1000 * (b - a) for name, (a, b) in zip(names, steps, strict=True)},
        "POST to known as succeeded": 1000 * (ended - began),
    }


def import_s(names: str) -> float:
    """Of a fresh interpreter, its own start included; the second of two, so from a warm disk."""
    for _ in range(2):
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", f"import {names}"], check=True)
    return time.monotonic() - began
