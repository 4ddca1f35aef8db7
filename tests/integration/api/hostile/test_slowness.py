"""Clients that are slow, or vanish."""

import socket
import threading
import time

import httpx
import psutil
import pytest

from tests.integration.api.hostile.conftest import CLIENT_TIMEOUT_S
from tests.integration.api.hostile.wire import (
    JSON,
    NO_JOB,
    connect,
    eventually_back,
    head,
    read_all,
    usage,
)
from tests.integration.api.live import Live


@pytest.mark.column("embedded")
class TestSlowness:
    def test_a_head_that_never_ends(self, live: Live) -> None:
        began = time.monotonic()
        connection = connect(live, b"GET /jobs HTTP/1.1\r\nHost: localhost\r\n")
        dripping = threading.Thread(target=drip, args=(connection, b"X: y\r\n"))
        dripping.start()
        answer = read_all(connection)
        dripping.join()
        assert answer.startswith(b"HTTP/1.1 408") and b"request_too_slow" in answer
        assert time.monotonic() - began < CLIENT_TIMEOUT_S + 5

    def test_a_second_head_that_never_ends(self, live: Live) -> None:
        connection = connect(live, head("GET /healthz HTTP/1.1"))
        assert b"200 OK" in connection.recv(65536)
        connection.sendall(b"GET /he")
        assert b"HTTP/1.1 408" in read_all(connection)

    def test_who_says_nothing(self, live: Live) -> None:
        assert read_all(connect(live)) == b""

    @pytest.mark.parametrize("path", ["/jobs", f"/jobs/{NO_JOB}/retry"])
    def test_a_body_that_drips(self, live: Live, path: str) -> None:
        connection = connect(live, head(f"POST {path} HTTP/1.1", JSON, "Content-Length: 1000"))
        dripping = threading.Thread(target=drip, args=(connection, b" "))
        dripping.start()
        answer = read_all(connection)
        dripping.join()
        assert answer.startswith(b"HTTP/1.1 408"), answer
        assert b"request_too_slow" in answer

    def test_a_refused_body_that_drips(self, live: Live) -> None:
        """Too large, and it is not read for ever only to be able to say so."""
        connection = connect(live, head("POST /jobs HTTP/1.1", JSON, "Content-Length: 99999999"))
        dripping = threading.Thread(target=drip, args=(connection, b" "))
        dripping.start()
        assert read_all(connection).startswith(b"HTTP/1.1 413")
        dripping.join()

    def test_an_upload_may_take_long_but_not_fall_silent(self, live: Live) -> None:
        upload = head("POST /datasets HTTP/1.1", "Content-Type: text/plain", "Content-Length: 9")
        slow, silent = connect(live, upload), connect(live, upload + b"abc")
        for letter in b"abcdefghi":
            time.sleep(CLIENT_TIMEOUT_S / 6)
            slow.sendall(bytes([letter]))
        with slow:
            assert slow.recv(65536).startswith(b"HTTP/1.1 201")
        assert read_all(silent).startswith(b"HTTP/1.1 408")
        assert not list((live.context.settings.data_dir / "uploads").glob("*"))

    def test_idle_connections_stop_nobody_and_go(self, live: Live) -> None:
        before = usage(live)
        idle = [connect(live, b"GET / HT" if n % 2 else b"") for n in range(500)]
        for _ in range(10):
            assert httpx.get(f"{live.url}/readyz", timeout=5).is_success
        eventually_back(live, before)
        for connection in idle:
            connection.close()


def drip(connection: socket.socket, piece: bytes) -> None:
    try:
        for _ in range(100):
            connection.sendall(piece)
            time.sleep(0.1)
    except OSError:  # closed, as it should be
        pass


def test_streams_whose_clients_vanish(live: Live) -> None:
    job = live.submit()
    live.http.get("/healthz")
    before = usage(live)
    request = head(f"GET {job['urls']['events']} HTTP/1.1", "Accept: text/event-stream")
    streams = [connect(live, request) for _ in range(200)]
    for stream in streams:
        assert b"200 OK" in stream.recv(1000)
    for stream in streams:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        stream.close()  # a reset, as a crashed client leaves it
    eventually_back(live, before)
    threads = psutil.Process(live.process.pid).num_threads()
    assert threads < 80, threads  # the pool of 40, and what libraries start
    time.sleep(1)
    busy_s = sum(psutil.Process(live.process.pid).cpu_times()[:2])
    time.sleep(2)  # nobody is left who asks for events
    assert sum(psutil.Process(live.process.pid).cpu_times()[:2]) - busy_s < 0.5
