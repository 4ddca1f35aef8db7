"""The API as a process of its own, on a free port of loopback."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from api.context import Context
from jobs.artifacts import open_store
from jobs.database import Database
from jobs.settings import Settings
from migrations.__main__ import upgrade
from tests.integration.api.support import Records, place_model

STARTS_WITHIN_S = 60.0
NO_HUB = "http://127.0.0.1:9"


@dataclass
class Live(Records):
    """A running API, and its records and store through the back door."""

    url: str
    process: subprocess.Popen[bytes]
    http: httpx.Client

    def submit(self, **fields: Any) -> dict[str, Any]:
        answer = self.http.post("/jobs", json={"model": "tiny", "bits": 2} | fields)
        assert answer.status_code == 202, answer.text
        return dict(answer.json())

    def finished(self, files: dict[str, bytes], **fields: Any) -> dict[str, Any]:
        job = self.submit(**fields)
        self.publish(self.claim_only(job["id"]), files)
        return dict(self.http.get(job["urls"]["self"]).json())

    def claim_only(self, job_id: str) -> Any:
        """Claim this job; whatever else was left in the queue is cancelled first."""
        for job in self.http.get("/jobs", params={"state": "queued"}).json()["jobs"]:
            if job["id"] != job_id:
                self.http.post(job["urls"]["cancel"])
        claimed = self.claim()
        assert claimed.id == job_id
        return claimed


@contextmanager
def serve(settings: Settings, model: Path, hub_url: str = NO_HUB) -> Iterator[Live]:
    """An API that knows the model `tiny`; the database is brought to the newest schema."""
    upgrade(settings.database_url)
    place_model(settings.models_dir, model, "tiny")
    with run_api(settings, hub_url) as live:
        yield live


@contextmanager
def run_api(settings: Settings, hub_url: str = NO_HUB) -> Iterator[Live]:
    """`python -m api` until the `with` ends."""
    environment = os.environ | settings.environment() | {"HF_ENDPOINT": hub_url}
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        (settings.data_dir / "api.log").open("ab") as log,
    ):
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        process = subprocess.Popen(
            [sys.executable, "-m", "api", "--fd", str(listener.fileno())],
            pass_fds=(listener.fileno(),),
            env=environment,
            stdout=log,
            stderr=log,
        )
    context = Context(settings, Database(settings.database_url), open_store(settings))
    try:
        with httpx.Client(base_url=url, timeout=30) as http:
            _wait_for(http, process)
            yield Live(context, url, process, http)
    finally:
        process.terminate()
        try:
            process.wait(30)
        finally:
            process.kill()
        context.database.dispose()


def _wait_for(http: httpx.Client, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + STARTS_WITHIN_S
    while True:
        try:
            assert http.get("/readyz").is_success
            return
        except httpx.TransportError:
            assert process.poll() is None, "the API ended"
            assert time.monotonic() < deadline, "the API did not start"
            time.sleep(0.1)
