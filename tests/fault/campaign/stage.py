"""A running service whose every part can be hurt: an API, two workers, and a column's servers."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import httpx
import psutil
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from jobs.database import Database
from jobs.job import Job
from jobs.rows import job_from_row
from jobs.schema import jobs
from jobs.settings import Settings
from migrations.__main__ import upgrade
from tests.columns import EMBEDDED, Addresses, production
from tests.conftest import running_servers
from tests.fault.campaign import points
from tests.fault.campaign.proxy import Proxy, faulty_proxy
from tests.fault.worker.support import House, eventually, house_of
from tests.integration.api.live import NO_HUB
from tests.integration.api.support import place_model
from tests.integration.client.up_process import processes_of
from tests.servers import Server, Servers
from tests.tiny_models import make_tiny

ROOT = Path(__file__).parents[3]
WORKERS = 2
AWAY_S = 1.0  # at least so long a server stays down
SCRATCH = "32m"  # of the small disk: three attempts fit
BODY = {"model": "tiny", "bits": 2, "calibration": {"source": "builtin"}}


@dataclass
class Stage:
    house: House
    points: Path
    servers: Servers | None  # none: the embedded column
    proxy: Proxy | None
    small_disk: bool  # scratch is a file system of its own
    environment: dict[str, str]
    listener: socket.socket
    http: httpx.Client
    parts: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def data_dir(self) -> Path:
        return self.house.settings.data_dir

    @property
    def filler(self) -> Path:
        """What fills the scratch disk."""
        return self.house.settings.scratch_dir / "filler"

    def heal(self) -> None:
        """Start what is dead, wake what is stopped, let go what is held."""
        if self.proxy is not None:
            self.proxy.behave()
        self.filler.unlink(missing_ok=True)
        points.let_go(self.points)
        fd = str(self.listener.fileno())
        self._keep("api", ["tests.fault.campaign.held_api", "--fd", fd])
        for number in range(WORKERS):
            self._keep(f"worker-{number}", ["tests.fault.campaign.held_worker"])

    def submit(self) -> "Submission":
        submission = Submission(self.http)
        submission.start()
        return submission

    def held(self, point: str) -> psutil.Process:
        """The process that waits at a point, once one does."""
        pid = eventually(lambda: points.holder(self.points, point), f"somebody at {point}")
        return psutil.Process(pid)

    def worker_of(self, process: psutil.Process) -> psutil.Process:
        """The worker that a held process is, or is the child of; of an API any worker."""
        workers = {p.pid for name, p in self.parts.items() if name.startswith("worker")}
        for candidate in (process, *process.parents()):
            if candidate.pid in workers:
                return candidate
        return psutil.Process(self.parts["worker-0"].pid)

    def ended(self, job_id: str, within_s: float) -> Job | None:
        """The job when it has ended, or None if that takes too long."""

        def look() -> Job | None:
            with suppress(OperationalError):
                job = self.house.get_by_id(job_id)
                return job if job.is_terminal else None
            return None

        with suppress(AssertionError):
            return eventually(look, "the end", within_s)
        return None

    def rows(self) -> list[Job]:
        """Every job, deleted ones too."""
        with self.house.database.read() as connection:
            return [job_from_row(row) for row in connection.execute(select(jobs))]

    def away(self, server: Server) -> None:
        """A server dies and comes back."""
        server.kill()
        time.sleep(AWAY_S)
        server.start()

    def storing(self, job: Job) -> None:
        """The job goes on, and the object store misbehaves until it has ended."""
        points.let_go(self.points)
        self.ended(job.id, within_s=60.0)

    def heard_of_its_loss(self, job: Job) -> bool:
        """Some worker noticed that it no longer has the job, or that the job has ended."""
        logs = [file.read_text() for file in self.data_dir.glob("worker-*.log")]
        return any(
            f"event={event}" in line and job.id in line
            for log in logs
            for line in log.splitlines()
            for event in ("lease_lost", "job_ended_meanwhile")
        )

    def is_quiet(self) -> bool:
        """No scratch, no child, nobody but who should be there."""
        wanted = {process.pid for process in self.parts.values()}
        there = {process.pid for process in processes_of(self.data_dir)}
        return self.house.no_scratch_left() and there <= wanted

    def noise(self) -> str:
        """Who is there, and what lies in scratch."""
        there = [process.cmdline() for process in processes_of(self.data_dir)]
        return f"{there} {list(self.house.settings.scratch_dir.glob('*'))}"

    def stop(self) -> None:
        for process in self.parts.values():
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in self.parts.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
            process.wait()

    def _keep(self, name: str, module: list[str]) -> None:
        running = self.parts.get(name)
        if running is not None and running.poll() is None:
            running.send_signal(signal.SIGCONT)
            return
        with (self.data_dir / f"{name}.log").open("ab") as log:
            self.parts[name] = subprocess.Popen(
                [sys.executable, "-m", *module],
                cwd=ROOT,
                env=self.environment,
                pass_fds=(self.listener.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a process group of its own
            )


class Submission(threading.Thread):
    """A client that does not give up: it sends its request again under the same key."""

    def __init__(self, http: httpx.Client) -> None:
        super().__init__(daemon=True)
        self._http = http
        self._key = uuid4().hex
        self._job_id: str | None = None

    def run(self) -> None:
        while self._job_id is None:
            try:
                answer = self._http.post("/jobs", json=BODY, headers={"Idempotency-Key": self._key})
                if answer.status_code < 500:
                    self._job_id = answer.raise_for_status().json()["id"]
            except httpx.TransportError:
                time.sleep(0.2)

    def job_id(self) -> str:
        return eventually(lambda: self._job_id, "an accepted job")


@contextmanager
def open_stage(column: str) -> Iterator[Stage]:
    """A fresh service, until the `with` ends."""
    with ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="apiq-faults-"))
        data_dir = Path(name).resolve() / "data"
        (data_dir / "points").mkdir(parents=True)
        servers, proxy = None, None
        addresses: Addresses = {}
        if column != EMBEDDED:
            servers = stack.enter_context(running_servers())
            servers.postgres.execute("CREATE DATABASE migrated")
            upgrade(servers.postgres.url("migrated"))
            addresses = stack.enter_context(production(servers, "migrated")).addresses
            proxy = stack.enter_context(faulty_proxy(servers.s3.url))
        settings = Settings(
            data_dir=data_dir,
            lease_ttl_s=4.0,
            heartbeat_interval_s=1.0,
            cancel_poll_s=0.1,
            cancel_grace_s=4.0,
            drain_grace_s=1.0,
            sweep_interval_s=0.3,
            retry_backoff_s=0.2,
            max_infra_losses=6,
            **addresses,
        )
        if column == EMBEDDED:
            upgrade(settings.database_url)
        place_model(settings.models_dir, make_tiny(data_dir / "tiny"), "tiny")
        environment = os.environ | settings.environment()
        environment |= {points.DIRECTORY: str(data_dir / "points"), "HF_ENDPOINT": NO_HUB}
        environment |= {"PYTHONPATH": str(ROOT)}
        if proxy is not None:
            environment |= {"AWS_ENDPOINT_URL_S3": proxy.url}
        small_disk = stack.enter_context(_small_disk(settings.scratch_dir))
        database = Database(settings.database_url)
        stack.callback(database.dispose)
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=64))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        http = stack.enter_context(httpx.Client(base_url=url, timeout=60))
        stage = Stage(
            house_of(settings, database),
            data_dir / "points",
            servers,
            proxy,
            small_disk,
            environment,
            listener,
            http,
        )
        stack.callback(stage.stop)
        stage.heal()
        eventually(lambda: http.get("/readyz").is_success, "an API")
        yield stage


@contextmanager
def _small_disk(directory: Path) -> Iterator[bool]:
    """A small file system at `directory`, if mounting is permitted."""
    directory.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={SCRATCH}", "tmpfs", str(directory)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(directory)], check=True)
