"""What only a real server on a real socket can show."""

import hashlib
import http.client
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from jobs.database import Database
from jobs.settings import Settings
from tests.integration.api.live import Live, serve

STREAM = {"accept": "text/event-stream"}
BIG = os.urandom(1024 * 1024) * 48  # 48 MiB
SOON_S = 30.0


@pytest.fixture(scope="module")
def big_url(live: Live) -> str:
    return live.finished({"big.bin": BIG})["urls"]["artifacts"] + "/big.bin"


def eventually(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SOON_S
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def open_files(live: Live) -> int:
    """Clients and artifacts; pools of connections to servers may grow to their bounds."""
    process = psutil.Process(live.process.pid)
    port = urlsplit(live.url).port
    clients = [x for x in process.net_connections() if x.laddr.port == port]
    files = [x for x in process.open_files() if "apiq.db" not in x.path]
    return len(clients) + len(files)


def resident_bytes(live: Live) -> int:
    pages = int(Path(f"/proc/{live.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def raw_get(live: Live, path: str, headers: dict[str, str] | None = None) -> socket.socket:
    """A connection that has asked, and has not read yet."""
    parts = urlsplit(live.url)
    connection = socket.create_connection((parts.hostname, parts.port), timeout=30)
    lines = [f"GET {path} HTTP/1.1", "Host: localhost"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
    return connection


class TestEvents:
    def test_arrive_while_they_happen_and_the_stream_ends_with_the_job(self, live: Live) -> None:
        job = live.submit()
        claimed = live.claim_only(job["id"])
        seen: list[str] = []

        def follow() -> None:
            with live.http.stream("GET", job["urls"]["events"], headers=STREAM) as answer:
                seen.extend(x[7:] for x in answer.iter_lines() if x.startswith("event: "))

        thread = threading.Thread(target=follow)
        thread.start()
        eventually(lambda: seen == ["accepted", "started"], "the first events")
        live.record(claimed, ("phase", {"phase": "quantizing"}), phase="quantizing")
        eventually(lambda: seen[2:] == ["phase"], "an event as it happens")
        assert thread.is_alive()
        live.publish(claimed, {"report.json": b"{}"})
        thread.join(SOON_S)
        assert not thread.is_alive()
        assert seen == ["accepted", "started", "phase", "succeeded"]

    def test_clients_that_vanish_leave_nothing_behind(self, live: Live) -> None:
        job = live.submit()
        live.http.get("/healthz")
        before = open_files(live)
        connections = [raw_get(live, job["urls"]["events"], STREAM) for _ in range(20)]
        for connection in connections:
            assert b"200 OK" in connection.recv(1000)
        assert open_files(live) >= before + 20
        for connection in connections:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            connection.close()  # a reset, as a crashed client leaves it
        eventually(lambda: open_files(live) <= before + 2, "connections are closed")
        assert live.http.get("/healthz").is_success


@pytest.mark.column("embedded")  # where the API sends the bytes itself
class TestDownloads:
    def test_whole_and_by_range(self, live: Live, big_url: str) -> None:
        whole = live.http.get(big_url)
        assert hashlib.sha256(whole.content).digest() == hashlib.sha256(BIG).digest()
        part = live.http.get(big_url, headers={"range": "bytes=1000000-30000000"})
        assert part.status_code == 206
        assert part.content == BIG[1_000_000:30_000_001]
        past = live.http.get(big_url, headers={"range": f"bytes={len(BIG)}-"})
        assert (past.status_code, past.json()["code"]) == (416, "range_not_satisfiable")

    def test_a_slow_reader_costs_no_memory_and_holds_up_nobody(
        self, live: Live, big_url: str
    ) -> None:
        live.http.get(big_url)
        before = resident_bytes(live)
        readers = [raw_get(live, big_url) for _ in range(4)]
        begun = [len(reader.recv(1000)) for reader in readers]
        for _ in range(10):
            assert live.http.get("/healthz").is_success
        assert resident_bytes(live) - before < len(BIG)  # of the four files that wait
        for reader in readers[1:]:
            reader.close()
        received = begun[0]
        while received < len(BIG):
            chunk = readers[0].recv(1024 * 1024)
            assert chunk, f"cut short after {received} bytes"
            received += len(chunk)
        readers[0].close()

    def test_clients_that_vanish_leave_nothing_behind(self, live: Live, big_url: str) -> None:
        live.http.get("/healthz")
        before = open_files(live)
        for _ in range(10):
            connection = raw_get(live, big_url)
            connection.recv(1000)
            connection.close()
        eventually(lambda: open_files(live) <= before + 2, "files and connections are closed")


class TestArchive:
    def test_a_slow_reader_costs_no_memory_and_holds_up_nobody(self, live: Live) -> None:
        job = live.finished({"a.bin": BIG, "b.bin": BIG})
        url = f"/jobs/{job['id']}/artifacts.tar"
        live.http.get(url)
        before = resident_bytes(live)
        readers = [raw_get(live, url) for _ in range(4)]
        for reader in readers:
            reader.recv(1000)
        for _ in range(10):
            assert live.http.get("/healthz").is_success
        assert resident_bytes(live) - before < len(BIG)  # of the archives that wait
        for reader in readers:
            reader.close()

    def test_clients_that_vanish_leave_nothing_behind(self, live: Live) -> None:
        url = f"/jobs/{live.finished({'a.bin': BIG})['id']}/artifacts.tar"
        live.http.get("/healthz")
        before = open_files(live)
        for _ in range(10):
            connection = raw_get(live, url)
            connection.recv(1000)
            connection.close()
        eventually(lambda: open_files(live) <= before + 2, "files and connections are closed")


class TestBodies:
    @pytest.mark.parametrize("declared", [True, False])
    def test_too_large(self, live: Live, declared: bool) -> None:
        body = json.dumps({"model": "tiny", "bits": 2, "metadata": {"x": "y" * 4_000_000}}).encode()
        chunks = [body[i : i + 65536] for i in range(0, len(body), 65536)]
        answer = httpx.post(
            f"{live.url}/jobs",
            content=body if declared else iter(chunks),
            headers={"content-type": "application/json"},
            timeout=30,
        )
        assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")

    def test_a_client_that_lies_about_its_length(self, live: Live) -> None:
        connection = http.client.HTTPConnection(urlsplit(live.url).netloc, timeout=30)
        connection.putrequest("POST", "/jobs")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", "100")
        connection.endheaders(b'{"model"')
        connection.close()
        assert live.http.get("/healthz").is_success

    def test_a_large_upload(self, live: Live) -> None:
        text = "Ein Satz mit Umlauten: äöü. ".encode() * 500_000  # 16 MB
        before = resident_bytes(live)
        answer = live.http.post("/datasets", content=text, headers={"content-type": "text/plain"})
        assert answer.status_code == 201
        assert answer.json()["sha256"] == hashlib.sha256(text).hexdigest()
        assert resident_bytes(live) - before < len(text)


def test_sigterm_ends_it_with_streams_open(
    settings: Settings, database: Database, tiny_model: Path
) -> None:
    with serve(settings, tiny_model) as live:
        job = live.submit()
        stream = raw_get(live, job["urls"]["events"], STREAM)
        assert b"200 OK" in stream.recv(1000)
        live.process.send_signal(signal.SIGTERM)
        assert live.process.wait(SOON_S) in (0, -signal.SIGTERM)
        stream.close()
