"""`apiq up`: starts, restarts, refuses, and leaves no process behind."""

import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from apiq_client import Client
from tests.integration.api.support import place_model
from tests.integration.client.up_process import SOON_S, Up, processes_of


def eventually(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SOON_S
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    directory = (tmp_path / "data").resolve()
    yield directory
    for process in processes_of(directory):  # of a test that failed
        process.kill()


def test_start_use_refuse_restart_stop(data_dir: Path, tiny_model: Path) -> None:
    place_model(data_dir / "models", tiny_model, "tiny")
    up = Up(data_dir)
    try:
        url = up.wait_until_up()
        shown = "\n".join(up.lines)
        for word in ("database", "artifacts", "broker", "models", "api", "worker"):
            assert re.search(rf"^{word} +\S", shown, re.M), shown
        assert str(data_dir / "apiq.db") in shown
        parts = up.parts()
        assert set(parts) == {"api", "worker"}
        with Client(url) as client:
            # a second one on the same data directory
            code, err = Up(data_dir).ended()
            assert code == 1
            (line,) = err.splitlines()
            assert f"in use by pid {up.process.pid} at {url}" in line
            assert line.endswith("[already_running]")
            # the API dies: clients wait until it is back, none is turned away
            os.kill(parts["api"], signal.SIGKILL)
            assert client.version()["version"]
            assert list(client.jobs()) == []
            # the worker too
            os.kill(parts["worker"], signal.SIGKILL)

            def workers() -> list[psutil.Process]:
                return [x for x in processes_of(data_dir) if x.cmdline()[1:3] == ["-m", "worker"]]

            eventually(lambda: any(x.pid != parts["worker"] for x in workers()), "another worker")
        up.process.terminate()
        code, err = up.ended()
        assert code == 0
        assert [line.split()[0] for line in err.splitlines()] == ["api", "worker"]
        assert all(line.endswith("restarted") for line in err.splitlines())
        assert processes_of(data_dir) == []
        with pytest.raises(httpx.TransportError):
            httpx.get(url)
    finally:
        up.process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_it_and_it_starts_again(data_dir: Path, number: int) -> None:
    up = Up(data_dir)
    up.wait_until_up()
    assert len(processes_of(data_dir)) >= 2
    up.process.send_signal(number)
    assert up.ended()[0] == (130 if number == signal.SIGINT else -number)
    said = "stopping, which takes up to 30 s" in up.last and "its last step of training" in up.last
    assert said is (number == signal.SIGINT)
    eventually(lambda: processes_of(data_dir) == [], "every part has ended")
    again = Up(data_dir)
    again.wait_until_up()
    again.process.terminate()
    assert again.ended()[0] == 0
    assert processes_of(data_dir) == []


def test_an_address_of_ipv6(data_dir: Path) -> None:
    up = Up(data_dir, APIQ_HOST="::1")
    url = up.wait_until_up()
    assert re.fullmatch(r"http://\[::1\]:\d+", url)
    with Client(url) as client:
        assert client.version()["version"]
    up.process.terminate()
    assert up.ended()[0] == 0


def test_a_port_that_is_taken(data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, err = Up(data_dir, port).ended()
    assert code == 1
    (line,) = err.splitlines()
    assert f"cannot listen on 127.0.0.1:{port}" in line and line.endswith("[port_in_use]")
    assert processes_of(data_dir) == []


def test_a_database_that_is_none(data_dir: Path) -> None:
    data_dir.mkdir(parents=True)
    (data_dir / "apiq.db").write_text("this is no database " * 100)
    code, err = Up(data_dir).ended()
    assert code == 1
    (line,) = err.splitlines()
    assert "file is not a database" in line and line.endswith("[migration_failed]")
    assert processes_of(data_dir) == []


def test_a_worker_that_keeps_dying_ends_it_all(data_dir: Path) -> None:
    code, err = Up(data_dir, APIQ_BROKER_URL="mongodb://").ended()  # which needs a package
    assert code == 1
    assert err.splitlines()[-1].startswith("error: worker ended")
    assert processes_of(data_dir) == []


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        (
            "APIQ_LEASE_TTL_S",
            "soon",
            "APIQ_LEASE_TTL_S is 'soon'; legal: a valid number [illegal_setting]",
        ),
        (
            "APIQ_ARTIFACTS_URL",
            "ftp://u:canary@host",
            "APIQ_ARTIFACTS_URL begins with 'ftp'; legal: file:///directory, s3://bucket/prefix "
            "[illegal_setting]",
        ),
        (
            "APIQ_HOST",
            "0.0.0.0",
            "APIQ_HOST is '0.0.0.0'; without APIQ_SECRET_KEY, so without API keys, the server "
            "binds to loopback only: 127.0.0.1, ::1 or localhost [host_not_loopback]",
        ),
    ],
)
def test_a_setting_that_is_not_legal(data_dir: Path, name: str, value: str, told: str) -> None:
    code, err = Up(data_dir, **{name: value}).ended()
    assert (code, err) == (2, f"error: {told}\n")
    assert processes_of(data_dir) == []
