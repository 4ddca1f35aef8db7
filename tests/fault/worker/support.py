"""A worker's records seen from outside, and workers as processes that can be killed."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
import redis

from jobs import doorbell, repository
from jobs.addresses import FILE_BROKER
from jobs.artifacts import ArtifactStore, log_key, open_store
from jobs.database import Database
from jobs.errors import ObjectNotFound
from jobs.job import Artifact, Job, JobEvent
from jobs.settings import Settings
from jobs.states import State
from tests.columns import stored_keys

HERE = Path(__file__).parent
CHILD = [sys.executable, str(HERE / "scripted_child.py")]
DEADLINE_S = 40.0  # generous: the machine may be busy


T = TypeVar("T")


def eventually(what: Callable[[], T | None], about: str = "it", within_s: float = DEADLINE_S) -> T:
    """Wait for an answer that is true."""
    deadline = time.monotonic() + within_s
    while not (answer := what()):
        assert time.monotonic() < deadline, f"{about} did not happen within {within_s} s"
        time.sleep(0.03)
    return answer


@dataclass
class House:
    """Records and artifacts of a service under test."""

    settings: Settings
    database: Database
    store: ArtifactStore

    def accept(self, how: str = "finish", *, ring: bool = True, **todo: Any) -> Job:
        with self.database.begin() as connection:
            job = repository.accept(connection, type="quantize", input={"how": how, **todo})
        if ring:
            doorbell.ring(self.settings, job)
        return job

    def get(self, job: Job) -> Job:
        return self.get_by_id(job.id)

    def get_by_id(self, job_id: str) -> Job:
        with self.database.read() as connection:
            return repository.get(connection, job_id)

    def cancel(self, job: Job) -> Job:
        with self.database.begin() as connection:
            return repository.request_cancel(connection, job.id)

    def wait(self, job: Job, *states: State) -> Job:
        def there() -> Job | None:
            found = self.get(job)
            assert found.state in states or not found.is_terminal, found
            return found if found.state in states else None

        return eventually(there, f"{job.id} {states}")

    def events(self, job: Job) -> list[JobEvent]:
        with self.database.read() as connection:
            events = repository.events_after(connection, job.id)
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        return events

    def event_types(self, job: Job) -> list[str]:
        return [event.type for event in self.events(job)]

    def artifacts(self, job: Job) -> list[Artifact]:
        with self.database.read() as connection:
            return repository.artifacts_of(connection, job.id)

    def content(self, key: str) -> bytes:
        return b"".join(self.store.open_range(key))

    def log(self, job: Job, attempt: int) -> str:
        return self.content(log_key(job.id, attempt)).decode()

    def has_log(self, job: Job, attempt: int) -> bool:
        try:
            return self.store.size(log_key(job.id, attempt)) > 0
        except ObjectNotFound:
            return False

    def stored_files(self) -> set[str]:
        """Every object but logs, by key."""
        return {key for key in stored_keys(self.store) if not key.endswith("/child.log")}

    def check_published_by(self, job: Job, attempt: int) -> None:
        """Exactly one artifact set exists, whole, of this attempt."""
        files = {file.path: file for file in self.artifacts(job)}
        assert {file.key for file in files.values()} == self.stored_files()
        for file in files.values():
            content = self.content(file.key)
            assert hashlib.sha256(content).hexdigest() == file.sha256
            assert len(content) == file.size_bytes
        config = json.loads(self.content(files["model/config.json"].key))
        assert config == {"attempt": attempt}
        manifest = json.loads(self.content(files["manifest.json"].key))
        assert manifest["attempt"] == attempt
        assert {entry["path"]: entry["sha256"] for entry in manifest["files"]} == {
            path: file.sha256 for path, file in files.items() if path != "manifest.json"
        }

    def no_scratch_left(self) -> bool:
        return not list(self.settings.scratch_dir.glob("*"))


@contextmanager
def worker_process(
    settings: Settings,
    name: str = "worker",
    command: Sequence[str] = (sys.executable, str(HERE / "scripted_worker.py")),
) -> Iterator[subprocess.Popen[bytes]]:
    """A worker, by default with the scripted child; killed at the end if it still runs."""
    environment = os.environ | settings.environment()
    log = settings.data_dir / f"{name}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    except BaseException:
        print(log.read_text()[-5000:])
        raise
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        process.wait()


def pids(file: Path) -> list[int]:
    """The children that noted themselves."""
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def house_of(settings: Settings, database: Database) -> House:
    return House(settings, database, open_store(settings))


def lose_the_broker(house: House) -> None:
    if house.settings.broker_url == FILE_BROKER:
        shutil.rmtree(house.settings.broker_dir, ignore_errors=True)
    else:
        with broker(house) as client:
            client.flushall()


def broker(house: House) -> redis.Redis:
    return redis.Redis.from_url(house.settings.broker_url)
