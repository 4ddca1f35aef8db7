"""The service under test, and the few moves that every test makes."""

import hashlib
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from fastapi import FastAPI
from fastapi.testclient import TestClient

from api.context import Context
from jobs import leases
from jobs.artifacts import files_prefix, log_key
from jobs.job import Artifact, Job
from jobs.schema import metadata
from tests.columns import stored_keys

LEASE_TTL_S = 60.0
WORKER = "worker-under-test"


def place_model(directory: Path, model: Path, name: str) -> Path:
    """A copy of a tiny model under `directory/name`."""
    return Path(shutil.copytree(model, directory / name))


@dataclass
class Records:
    """What a worker does to the records and the store, by the very functions it uses."""

    context: Context

    def claim(self) -> Job:
        with self.context.database.begin() as connection:
            job = leases.claim(
                connection, worker_id=WORKER, device_class="cpu", lease_ttl_s=LEASE_TTL_S
            )
        assert job is not None
        return job

    def record(self, job: Job, *events: tuple[str, dict[str, Any]], **fields: Any) -> None:
        with self.context.database.begin() as connection:
            leases.record(connection, job.id, job.attempt, events, **fields)

    def put(self, key: str, content: bytes) -> None:
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            self.context.store.put_file(key, Path(file.name))

    def put_log(self, job: Job, content: bytes) -> None:
        self.put(log_key(job.id, job.attempt), content)

    def publish(self, job: Job, files: dict[str, bytes]) -> None:
        artifacts = []
        for path, content in files.items():
            key = f"{files_prefix(job.id, job.attempt)}/{path}"
            self.put(key, content)
            digest = hashlib.sha256(content).hexdigest()
            kind = "application/json" if path.endswith(".json") else "application/octet-stream"
            artifacts.append(Artifact(path, len(content), digest, kind, key))
        with self.context.database.begin() as connection:
            leases.publish(connection, job.id, job.attempt, artifacts, {"bits_per_weight": 2.5})

    def fail(self, job: Job, error: dict[str, Any]) -> None:
        with self.context.database.begin() as connection:
            leases.fail(connection, job.id, job.attempt, error)

    def lose(self, job: Job, error: dict[str, Any]) -> None:
        with self.context.database.begin() as connection:
            leases.lose(connection, job, error, self.context.settings)


def drop_the_tables(service: "Service") -> None:
    with service.context.database.begin() as connection:
        metadata.drop_all(connection)


def leftovers(service: "Service") -> list[str]:
    """Datasets, in the store and on their way there."""
    uploads = service.context.settings.data_dir / "uploads"
    on_their_way = [str(path) for path in uploads.rglob("*") if path.is_file()]
    return [*stored_keys(service.context.store), *on_their_way]


@dataclass
class Service(Records):
    """The app, in this process, with a client of it."""

    app: FastAPI
    http: TestClient

    def submit(self, **fields: Any) -> dict[str, Any]:
        answer = self.http.post("/jobs", json={"model": "tiny", "bits": 2} | fields)
        assert answer.status_code == 202, answer.text
        return dict(answer.json())

    def finished(self, files: dict[str, bytes], **fields: Any) -> dict[str, Any]:
        """A job that went all the way."""
        job = self.submit(**fields)
        self.publish(self.claim(), files)
        return dict(self.http.get(job["urls"]["self"]).json())

    def upload(self, content: bytes, media_type: str = "text/plain") -> dict[str, Any]:
        answer = self.http.post("/datasets", content=content, headers={"content-type": media_type})
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    @staticmethod
    def refused(answer: httpx2.Response, status: int, code: str) -> dict[str, Any]:
        """The answer as a well-formed problem."""
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        problem = dict(answer.json())
        assert problem["code"] == code, problem
        assert problem["status"] == status
        assert problem["type"] == f"urn:apiq:problem:{code}"
        assert problem["title"] and problem["detail"]
        return problem


def fetch(service: Service, url: str, **headers: str) -> httpx2.Response:
    """As a client does: the redirect leads to another server, if there is one."""
    answer = service.http.get(url, headers=headers, follow_redirects=False)
    if answer.status_code == 307:
        return httpx2.get(answer.headers["location"], headers=headers)
    return answer
