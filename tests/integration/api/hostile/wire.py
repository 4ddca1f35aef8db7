"""Bytes to a server and what it answers, below any HTTP client."""

import json
import socket
import time
from contextlib import suppress
from urllib.parse import urlsplit

import psutil

from tests.integration.api.live import Live

SOON_S = 30.0
JSON = "Content-Type: application/json"
NO_JOB = "job_00000000-0000-7000-8000-000000000000"


def connect(live: Live, sent: bytes = b"") -> socket.socket:
    parts = urlsplit(live.url)
    connection = socket.create_connection((parts.hostname, parts.port), timeout=SOON_S)
    try:
        connection.sendall(sent)
    except OSError:
        connection.close()
        raise
    return connection


def head(first: str, *headers: str) -> bytes:
    return "\r\n".join([first, "Host: localhost", *headers, "", ""]).encode("latin-1")


def read_all(connection: socket.socket) -> bytes:
    """Until the server closes."""
    received = b""
    # a reset: we were still sending when it had closed
    with connection, suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            received += chunk
    return received


def exchange(live: Live, sent: bytes) -> list[tuple[int, dict[str, object]]]:
    """Status and problem of every answer to these bytes; the server closes at the end."""
    connection = connect(live, sent)
    answers = []
    rest = read_all(connection)
    while rest:
        lines, _, rest = rest.partition(b"\r\n\r\n")
        status, *headers = lines.decode("latin-1").split("\r\n")
        fields = {k.lower(): v for k, _, v in (line.partition(": ") for line in headers)}
        size_bytes = int(fields["content-length"])
        assert fields["content-type"].startswith(("application/problem+json", "application/json"))
        answers.append((int(status.split()[1]), json.loads(rest[:size_bytes])))
        rest = rest[size_bytes:]
    return answers


def refused(answers: list[tuple[int, dict[str, object]]], status: int, code: str) -> str:
    ((found, problem),) = answers
    assert (found, problem["status"], problem["code"]) == (status, status, code), problem
    return str(problem["detail"])


def eventually_back(live: Live, before: tuple[int, int]) -> None:
    deadline = time.monotonic() + SOON_S
    while (now := usage(live)) > before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert now[0] <= before[0] + 2 and now[1] <= before[1] + 2, (before, now)


def usage(live: Live) -> tuple[int, int]:
    """Connections of clients; file handles but those of pools."""
    process = psutil.Process(live.process.pid)
    port = urlsplit(live.url).port
    clients = [x for x in process.net_connections() if x.laddr.port == port]
    files = [x for x in process.open_files() if "apiq.db" not in x.path]
    return len(clients), len(files)
