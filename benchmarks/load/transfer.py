"""Uploads and downloads of one large file on both stores, beside a copy and plain boto3.

The uploader is a process of its own, as a worker is; memory is its peak and the API's.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import httpx
import psutil

from benchmarks.load.service import COLUMNS, MODEL, api, column
from benchmarks.report import show, write
from jobs import leases, repository
from jobs.artifacts import files_prefix
from jobs.database import Database
from jobs.job import Artifact
from jobs.settings import Settings

SIZE_BYTES = int(float(os.environ.get("LOAD_GB", "5")) * 1e9)
CHUNK_BYTES = 1 << 20
NAME = "model/model.safetensors"

# prints seconds and the peaks of its memory before and after, in MB
UPLOAD = """
import re, sys, time
from pathlib import Path
from jobs.artifacts import open_store
from jobs.settings import load_settings
def peak():  # of this program alone; getrusage's is the larger one of whoever started it
    found = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 / 1e6
store = open_store(load_settings())
store.check()
before, began = peak(), time.monotonic()
stored = store.put_file(sys.argv[1], Path(sys.argv[2]))
print(time.monotonic() - began, before, peak(), stored.sha256)
"""


def main() -> None:
    rows: list[dict[str, Any]] = []
    for name in COLUMNS:
        with column(name) as settings:
            rows += [{"column": name, **row} for row in measure(settings)]
    show(f"one file of {SIZE_BYTES / 1e9:g} GB", rows)
    write("load-transfer", {"size_bytes": SIZE_BYTES, "rows": rows})


def measure(settings: Settings) -> list[dict[str, Any]]:
    source = settings.data_dir / "source"
    with source.open("wb") as file:
        for _ in range(0, SIZE_BYTES, CHUNK_BYTES):
            file.write(os.urandom(CHUNK_BYTES))
    cp = timed(lambda: synced_copy(source, settings.data_dir / "copy"))
    (settings.data_dir / "copy").unlink()
    rows = [row("a copy, to the disk (fsync)", cp, cp)]
    base = cp
    if settings.artifacts_url.startswith("s3:"):
        bucket = urlsplit(settings.artifacts_url).netloc
        client = boto3.client("s3")
        base = timed(lambda: client.upload_file(str(source), bucket, "plain"))
        rows.append(row("boto3 upload_file", base, base))
        down = timed(lambda: client.download_file(bucket, "plain", str(source) + ".down"))
        rows.append(row("boto3 download_file", down, down))
        client.delete_object(Bucket=bucket, Key="plain")
        Path(str(source) + ".down").unlink()
    else:
        down = cp
    database = Database(settings.database_url)
    with database.begin() as connection:
        repository.accept(connection, type="quantize", input={"model": MODEL})
        job = leases.claim(connection, worker_id="load", device_class="cpu", lease_ttl_s=3600)
    assert job is not None
    key = f"{files_prefix(job.id, 1)}/{NAME}"
    out = subprocess.run(
        [sys.executable, "-c", UPLOAD, key, str(source)],
        env=os.environ | settings.environment(),
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    rows.append(
        row("store.put_file, with sha256", float(out[0]), base, float(out[1]), float(out[2]))
    )
    artifact = Artifact(NAME, source.stat().st_size, out[3], "application/octet-stream", key)
    with database.begin() as connection:
        leases.publish(connection, job.id, 1, [artifact], {})
    database.dispose()
    with api(settings) as (running, port):
        url = f"http://127.0.0.1:{port}/jobs/{job.id}/artifacts/{NAME}"
        memory: list[float] = []
        took = timed(lambda: download(url, source.with_name("got"), running, memory))
    assert source.with_name("got").stat().st_size == source.stat().st_size
    rows.append(row("GET artifact through the API", took, down, memory[0], max(memory)))
    return rows


def row(
    what: str, seconds: float, base_s: float, before_mb: float = 0, peak_mb: float = 0
) -> dict[str, Any]:
    return {
        "what": what,
        "mb_per_s": round(SIZE_BYTES / 1e6 / seconds, 1),
        "speed_to_peer": round(base_s / seconds, 2),
        "rss_before_mb": round(before_mb, 1),
        "rss_peak_mb": round(peak_mb, 1),
    }


def synced_copy(source: Path, target: Path) -> None:
    """A copy, and then on the disk: as the store promises it."""
    shutil.copyfile(source, target)
    with target.open("rb+") as file:
        os.fsync(file.fileno())


def download(url: str, target: Path, server: psutil.Process, memory: list[float]) -> None:
    with httpx.stream("GET", url, timeout=60) as answer, target.open("wb") as file:
        answer.raise_for_status()
        for number, chunk in enumerate(answer.iter_bytes(CHUNK_BYTES)):
            if number % 100 == 0:
                memory.append(server.memory_info().rss / 1e6)
            file.write(chunk)


def timed(call: Any) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began
