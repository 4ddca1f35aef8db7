"""The services of docker-compose.yml as processes of this machine, and a job through them.

Command lines, environments and health checks are read from the compose file and the Dockerfiles.
Replaced are only the places: host and port of a service, and where a volume is mounted. PostgreSQL
has no command in the file - its image has - and is the suite's own.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from apiq_client import Client
from apiq_client.errors import ProblemError
from tests import compose
from tests.servers import Servers, free_ports
from tests.tiny_models import make_tiny

VALUES = {
    name: hashlib.sha256(name.encode()).hexdigest()
    for name in ("POSTGRES_PASSWORD", "REDIS_PASSWORD", "S3_SECRET_KEY", "APIQ_SECRET_KEY")
}
UP_WITHIN_S = 90.0
JOB_WITHIN_S = 240.0
PARTS = ("master", "volume", "filer", "s3")  # of SeaweedFS
SMALL: dict[str, Any] = {
    "calibration": {"source": "builtin", "samples": 4, "length": 32, "held_out": 2},
    "evaluation": {"samples": 2, "length": 32},
    "training": {"epochs": 1, "batch_size": 2},
}


class Stack:
    """Runs services of the compose file, each in a directory of its own."""

    def __init__(self, root: Path, postgres_port: int) -> None:
        self.root = root
        self.services = compose.services(VALUES)
        redis, s3, api, *inner = free_ports(10)
        self.url = f"http://127.0.0.1:{api}"
        self.places = {
            "@postgres:5432": f"@127.0.0.1:{postgres_port}",
            "@redis:6379": f"@127.0.0.1:{redis}",
            "port 6379": f"port {redis}",
            "-p 6379": f"-p {redis}",
            "seaweedfs:8333": f"127.0.0.1:{s3}",
            "127.0.0.1:8333": f"127.0.0.1:{s3}",
            "s3.port=8333": f"s3.port={s3}",
            "127.0.0.1:8000": f"127.0.0.1:{api}",
        }
        # in a container these are nobody else's; here they must not meet another server's
        names = ["master.port", "volume.port", "filer.port", *(f"{x}.port.grpc" for x in PARTS)]
        self.more_flags = {"seaweedfs": [f"-{n}={p}" for n, p in zip(names, inner, strict=True)]}
        self.more_environment = {"api": {"APIQ_PORT": str(api)}}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        """Start a service; wait until it is healthy."""
        with self.log(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [*self._place(name, compose.command(self.services[name])), *self._flags(name)],
                env=self._environment(name),
                cwd=compose.ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + UP_WITHIN_S
        while not self.is_healthy(name):
            assert self.processes[name].poll() is None, self.log(name).read_text()[-3000:]
            assert time.monotonic() < deadline, self.log(name).read_text()[-3000:]
            time.sleep(0.3)

    def run(self, name: str, command: list[str] | None = None) -> str:
        """Run a one-shot to its end, or as `docker compose exec` a command; what it printed."""
        command = command or self._place(name, compose.command(self.services[name]))
        done = subprocess.run(
            command,
            env=self._environment(name),
            cwd=compose.ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def is_healthy(self, name: str) -> bool:
        """By the health check of the service or of its image."""
        service = self.services[name]
        if "healthcheck" in service:
            kind, *words = service["healthcheck"]["test"]
            command = ["sh", "-c", *words] if kind == "CMD-SHELL" else words
        else:
            path = compose.dockerfile(service)
            assert path is not None
            check = dict(compose.instructions(path))["HEALTHCHECK"]
            command = json.loads(check[check.index("[") :])
        done = subprocess.run(
            self._place(name, command),
            env=self._environment(name),
            cwd=compose.ROOT,
            capture_output=True,
        )
        return done.returncode == 0

    def stop(self, name: str) -> int:
        """As `docker compose stop`: SIGTERM, and within the grace period it has ended."""
        process = self.processes.pop(name)
        process.terminate()
        grace_s = compose.seconds(self.services[name].get("stop_grace_period", "10s"))
        try:
            return process.wait(grace_s)
        finally:
            process.kill()

    def kill_all(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()

    def log(self, name: str) -> Path:
        return self.root / f"{name}.log"

    def volume(self, name: str) -> Path:
        directory = self.root / "volumes" / name
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def _place(self, name: str, words: list[str]) -> list[str]:
        return [self._placed(name, word) for word in words]

    def _placed(self, name: str, content: str) -> str:
        for there, here in self.places.items():
            content = content.replace(there, here)
        for mount in self.services[name].get("volumes", []):
            volume, target, *_ = mount.split(":")
            content = content.replace(target, str(self.volume(volume)))
        return content

    def _flags(self, name: str) -> list[str]:
        return self.more_flags.get(name, [])

    def _environment(self, name: str) -> dict[str, str]:
        ours = {
            k: self._placed(name, v) for k, v in compose.environment(self.services[name]).items()
        }
        tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        mine = {"PATH": tools, "HOME": str(self.volume("home")), "HF_HUB_OFFLINE": "1"}
        return mine | {"OMP_NUM_THREADS": "1"} | ours | self.more_environment.get(name, {})


@pytest.fixture
def stack(tmp_path: Path, servers: Servers) -> Iterator[Stack]:
    password = VALUES["POSTGRES_PASSWORD"]
    servers.postgres.execute(f"CREATE ROLE apiq LOGIN PASSWORD '{password}'")
    servers.postgres.execute("CREATE DATABASE apiq OWNER apiq")
    with ExitStack() as undo:
        undo.callback(servers.postgres.execute, "DROP ROLE apiq")
        undo.callback(servers.postgres.execute, "DROP DATABASE apiq WITH (FORCE)")
        stack = Stack(tmp_path, servers.postgres.port)
        undo.callback(stack.kill_all)
        yield stack


def test_a_job_goes_through_the_stack(stack: Stack, tmp_path: Path) -> None:
    make_tiny(stack.volume("models") / "org/tiny")
    for name in ("redis", "seaweedfs"):
        stack.start(name)
    for _ in range(2):  # every `docker compose up` runs them again
        stack.run("migrate")
        stack.run("bucket")
    stack.start("api")
    stack.start("worker-cpu")

    key = stack.run("api", ["apiq", "keys", "create", "--owner", "tests"]).strip()
    with pytest.raises(ProblemError, match="needs an API key"), Client(stack.url) as stranger:
        stranger.quantize("org/tiny", bits=2)
    with Client(stack.url, api_key=key) as client:
        job = client.quantize("org/tiny", bits=2, **SMALL)
        deadline = time.monotonic() + JOB_WITHIN_S
        for seen in client.watch(job.id):
            job = seen
            assert time.monotonic() < deadline, stack.log("worker-cpu").read_text()[-3000:]
        assert job.state == "succeeded", job
        client.download_all(job.id, tmp_path / "out")
        artifacts = client.artifacts(job.id)
    assert {"manifest.json", "report.json", "adapter/adapter_config.json"} <= {
        artifact.path for artifact in artifacts
    }
    for artifact in artifacts:
        content = (tmp_path / "out" / artifact.path).read_bytes()
        assert hashlib.sha256(content).hexdigest() == artifact.sha256
    # by the published port alone: a client cannot reach the object store
    with httpx.Client(base_url=stack.url, headers={"authorization": f"Bearer {key}"}) as plain:
        for path in ("artifacts/manifest.json", "artifacts.tar"):
            assert plain.get(f"/jobs/{job.id}/{path}").status_code == 200

    for name in ("worker-cpu", "api", "seaweedfs", "redis"):
        assert stack.is_healthy(name)
        # uvicorn ends by the signal that it was sent, after an orderly shutdown
        wanted = -signal.SIGTERM if name == "api" else 0
        assert stack.stop(name) == wanted, stack.log(name).read_text()[-3000:]
        assert not stack.is_healthy(name)
    for name in ("api", "worker-cpu"):
        secrets = [*VALUES.values(), key]
        assert not any(secret in stack.log(name).read_text() for secret in secrets)
