"""The service's processes on both columns, and what they use."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psutil

from jobs.settings import Settings
from migrations.__main__ import upgrade
from tests.servers import Postgres, Servers, free_ports
from tests.tiny_models import make_tiny

COLUMNS = ("embedded", "production")
MODEL = "tiny"


class DurablePostgres(Postgres):
    """As it is deployed: a commit waits for the disk."""

    def command(self) -> list[str]:
        return [*super().command(), "-c", "fsync=on"]


class LoadServers(Servers):
    @property
    def postgres(self) -> Postgres:
        return self._get("postgres", DurablePostgres)


@contextmanager
def column(name: str, **settings: Any) -> Iterator[Settings]:
    """Migrated records, a broker and a store, in a directory that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="apiq-load-", ignore_cleanup_errors=True) as root:
        Path(root).chmod(0o755)  # PostgreSQL may run as another user
        servers = LoadServers(Path(root) / "servers")
        before = dict(os.environ)
        try:
            if name == "production":
                database = f"load_{uuid4().hex}"
                servers.postgres.execute(f"CREATE DATABASE {database}")
                settings |= {
                    "database_url": servers.postgres.url(database),
                    "broker_url": servers.redis.url(0),
                    "artifacts_url": f"s3://{servers.s3.bucket}/{database}",
                }
                os.environ.update(servers.s3.environment)
            made = Settings(data_dir=Path(root) / "data", **settings)
            made.data_dir.mkdir()
            upgrade(made.database_url)
            make_tiny(made.models_dir / MODEL)
            yield made
        finally:
            servers.stop()
            os.environ.clear()
            os.environ.update(before)
            shutil.rmtree(root, ignore_errors=True)


@contextmanager
def process(command: Sequence[str], settings: Settings, log: str) -> Iterator[psutil.Popen]:
    """A process of the service; told to end (SIGTERM) when the `with` ends."""
    with (settings.data_dir / log).open("ab") as file:
        running = psutil.Popen(
            [sys.executable, *command],
            env=os.environ | settings.environment(),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
    try:
        yield running
    finally:
        running.terminate()
        try:
            running.wait(30)
        except psutil.TimeoutExpired:
            running.kill()
            running.wait()


@contextmanager
def server(command: Sequence[str], settings: Settings, path: str) -> Iterator[tuple[Any, int]]:
    """A process that listens on a port (process, port), once `path` answers."""
    (port,) = free_ports(1)
    chosen = settings.model_copy(update={"port": port})
    with process(command, chosen, f"{command[-1]}.log") as running:
        deadline = time.monotonic() + 60
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}{path}", timeout=5).raise_for_status()
                break
            except httpx.HTTPError:
                if time.monotonic() > deadline or running.poll() is not None:
                    raise
                time.sleep(0.05)
        yield running, port


@contextmanager
def api(settings: Settings) -> Iterator[tuple[Any, int]]:
    with server(["-m", "api"], settings, "/readyz") as found:
        yield found


def rss_mb(running: psutil.Process) -> float:
    size_mb: float = round(running.memory_info().rss / 1e6, 1)
    return size_mb
