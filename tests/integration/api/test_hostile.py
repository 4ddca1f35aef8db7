"""Clients that mean harm, or are broken, against a real server on a real socket."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from jobs.database import Database
from jobs.schema import metadata
from jobs.settings import Settings
from tests.conftest import OpenColumn
from tests.integration.api.live import Live, serve
from tests.integration.api.support import Service

CLIENT_TIMEOUT_S = 2.0
SOON_S = 30.0
JSON = "Content-Type: application/json"
NO_JOB = "job_00000000-0000-7000-8000-000000000000"


@pytest.fixture(scope="module")
def live(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: Path,
    open_column: OpenColumn,
    column_name: str,
) -> Iterator[Live]:
    with open_column(column_name) as column:
        settings = Settings(
            data_dir=tmp_path_factory.mktemp("live"),
            client_timeout_s=CLIENT_TIMEOUT_S,
            **column.addresses,
        )
        with serve(settings, tiny_model) as live:
            yield live


@pytest.fixture(scope="module")
def artifacts(live: Live) -> str:
    return str(live.finished({"model/a.bin": b"0123456789"})["urls"]["artifacts"])


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


@pytest.mark.column("embedded")
class TestShapes:
    """What is wrong before any route is asked."""

    @pytest.mark.parametrize(
        "sent",
        [
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),  # TLS
            b"GET /jobs\r\n\r\n",
            b"GET /jobs HTTP/1.1\r\n\r\n",  # no Host
            b"GET /j\xc3\xb6bs HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET /jobs HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n\r\n",
            b"GET /jobs HTTP/1.1\r\nHost: localhost\r\nX : y\r\n\r\n",
            b"GET /jobs HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n",
            head("POST /jobs HTTP/1.1", JSON, "Content-Length: 2", "Content-Length: 9") + b"{}",
            head("POST /jobs HTTP/1.1", JSON, "Content-Length: -1"),
            head("POST /jobs HTTP/1.1", JSON, "Content-Length: 1_0") + b"{}",
            head("POST /jobs HTTP/1.1", JSON, "Transfer-Encoding: chunked, gzip") + b"0\r\n\r\n",
            head("POST /jobs HTTP/1.1", JSON, "Transfer-Encoding: xchunked") + b"0\r\n\r\n",
            head("POST /jobs HTTP/1.1", JSON, "Transfer-Encoding: chunked") + b"-5\r\n{}\r\n",
            head("GET /jobs HTTP/1.1", "X: " + "y" * 1_000_000),
            head("GET /jobs HTTP/1.1", *(f"X-{n}: y" for n in range(100_000))),
            head("GET /jobs?" + "x" * 1_000_000 + " HTTP/1.1"),
        ],
        ids=lambda sent: repr(sent[:70]),
    )
    def test_what_is_no_http_is_one_problem(self, live: Live, sent: bytes) -> None:
        try:
            answers = exchange(live, sent)
        except (ConnectionResetError, BrokenPipeError):  # closed while it was being sent
            answers = []
        if answers or len(sent) < 64 * 1024:
            refused(answers, 400, "bad_request")
        assert live.http.get("/healthz").is_success

    def test_nothing_is_smuggled_behind_a_body(self, live: Live) -> None:
        """Whatever a length and a chunked body say together, the rest is no second request."""
        hidden = head("GET /version HTTP/1.1")
        sent = head(
            "POST /jobs HTTP/1.1",
            JSON,
            f"Content-Length: {5 + len(hidden)}",
            "Transfer-Encoding: chunked",
            "Connection: close",
        )
        answers = exchange(live, sent + b"0\r\n\r\n" + hidden)
        refused(answers, 422, "invalid_request")

    def test_many_headers_within_the_bound(self, live: Live) -> None:
        headers = {f"x-{n}": "y" for n in range(2000)}
        assert live.http.get("/healthz", headers=headers).is_success

    @pytest.mark.parametrize(
        "host",
        [
            "evil.example",
            "evil.example:8000",
            "127.0.0.1.evil.example",
            "localhost.evil",
            "[::1",
            "10.0.0.1",
            "",
            "localhost@evil",
            "\xff",
        ],
    )
    def test_names_of_others(self, live: Live, host: str) -> None:
        sent = f"GET /jobs HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode("latin-1")
        status = exchange(live, sent)
        if host == "[::1":
            return
        assert "legal without API keys" in refused(status, 421, "host_not_allowed")

    @pytest.mark.parametrize(
        "host",
        ["localhost", "LOCALHOST:1", "127.0.0.1", "127.1.2.3:80", "[::1]:8000", "apiq.localhost"],
    )
    def test_names_of_its_own(self, live: Live, host: str) -> None:
        assert live.http.get("/jobs", headers={"host": host}).is_success

    @pytest.mark.parametrize(
        "origin",
        ["https://evil.example", "null", "", "http://localhost.evil", "http://[::1", "file://"],
    )
    def test_pages_of_others(self, service: Service, origin: str) -> None:
        headers = {"content-type": "text/plain", "origin": origin}  # asks for no preflight
        answer = service.http.post("/datasets", content=b"some text", headers=headers)
        problem = service.refused(answer, 403, "origin_not_allowed")
        assert [error["pointer"] for error in problem["errors"]] == ["Origin:"]
        assert service.http.get("/datasets").json()["datasets"] == []

    @pytest.mark.parametrize(
        "origin", ["http://localhost:8000", "http://[::1]", "https://127.0.0.1"]
    )
    def test_pages_of_its_own(self, service: Service, origin: str) -> None:
        headers = {"content-type": "text/plain", "origin": origin}
        answer = service.http.post("/datasets", content=b"some text", headers=headers)
        assert answer.status_code == 201


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


@pytest.mark.parametrize(
    "path",
    [
        *("..", "../..", "%2e%2e", "%2e%2e/%2e%2e/apiq.db", "..%2f..%2fapiq.db", "..\\apiq.db"),
        *("%5c..%5capiq.db", "model%2f..%2fmodel%2fa.bin", "model/../model/a.bin", "model//a.bin"),
        *("/model/a.bin", "%2fetc%2fpasswd", "/etc/passwd", "model/a.bin%00", "%00", "model", ""),
        *("MODEL/A.BIN", "model/a.bin/", "./model/a.bin", "model/a.bin%20", "%ff%fe", "%", "%zz"),
        *("a" * 60_000, "%c0%ae%c0%ae/", "file:///etc/passwd", "model/a.bin;x"),
        "%EF%BC%8E%EF%BC%8E/",
    ],
    ids=lambda path: path[:40],
)  # fmt: skip
def test_paths_of_artifacts(live: Live, artifacts: str, path: str) -> None:
    """Sent as they are: a client library would tidy them up."""
    sent = head(f"GET {artifacts}/{path} HTTP/1.1", "Connection: close")
    ((status, problem),) = exchange(live, sent)
    assert (status, problem["code"]) in ((404, "artifact_not_found"), (404, "not_found"))
    assert len(str(problem)) < 2000


@pytest.mark.column("embedded")  # where the API sends the bytes itself
class TestRanges:
    @pytest.mark.parametrize(
        "range", [f"bytes={10**18}-", f"bytes={'9' * 19}-{'9' * 19}", "bytes=10-", "bytes=-0"]
    )
    def test_beyond_the_file(self, live: Live, artifacts: str, range: str) -> None:
        answer = live.http.get(f"{artifacts}/model/a.bin", headers={"range": range})
        assert (answer.status_code, answer.json()["code"]) == (416, "range_not_satisfiable")
        assert answer.headers["content-range"] == "bytes */10"

    @pytest.mark.parametrize(
        ("range", "content"),
        [
            (f"bytes=0-{'9' * 19}", b"0123456789"),
            (f"bytes=-{'9' * 19}", b"0123456789"),
            ("bytes=9-9", b"9"),
        ],
    )
    def test_overlapping_its_end(
        self, live: Live, artifacts: str, range: str, content: bytes
    ) -> None:
        answer = live.http.get(f"{artifacts}/model/a.bin", headers={"range": range})
        assert (answer.status_code, answer.content) == (206, content)

    @pytest.mark.parametrize(
        "range",
        ["bytes=5-2", "bytes=--1", f"bytes={'9' * 5000}-", "bytes=", "bytes", "lines=1-2",
         "bytes=" + ",".join(["0-0"] * 5000), "bytes=0x1-0x2", "bytes=-1-5", "bytes=1.5-2"],
        ids=lambda text: text[:20],
    )  # fmt: skip
    def test_that_mean_nothing_are_ignored(self, live: Live, artifacts: str, range: str) -> None:
        answer = live.http.get(f"{artifacts}/model/a.bin", headers={"range": range})
        assert (answer.status_code, answer.content) == (200, b"0123456789")


class TestQueries:
    @pytest.mark.parametrize(
        ("query", "pointer"),
        [
            ("model=%00", "?model"),
            ("type=a%00b", "?type"),
            ("type=quantise", "?type"),
            ("label.x=%00", "?label.x"),
            ("label.%00=x", "?'label.\\x00'"),
            ('label.a"b=x', '?label.a"b'),
            ("label.=x", "?label."),
            ("label." + "k" * 64 + "=x", "?label." + "k" * 64),
            ("&".join(f"label.k{n}=x" for n in range(3000)), "?label.KEY"),
            ("state=queued&state=failed", "?state"),
            ("limit=" + "9" * 5000, "?limit"),
            ("limit=1e1", "?limit"),
            ("after=" + "A" * 5000, "?after"),
            ("x" * 5000 + "=1", "?" + "x" * 80),
        ],
        ids=lambda text: text[:30],
    )  # fmt: skip
    def test_that_cannot_be_meant(self, service: Service, query: str, pointer: str) -> None:
        answer = service.http.get(f"/jobs?{query}")
        problem = service.refused(answer, 422, "invalid_request")
        assert [error["pointer"] for error in problem["errors"]] == [pointer]
        assert len(answer.content) < 2000

    @pytest.mark.parametrize(
        "query", ["model=%ff", "model=%ed%a0%80", "model=%zz", "model=%", "&&&"]
    )
    def test_that_find_nothing_wrong(self, service: Service, query: str) -> None:
        assert service.http.get(f"/jobs?{query}").json()["jobs"] == []

    @pytest.mark.parametrize(
        ("method", "path", "says"),
        [
            ("GET", f"/jobs/{NO_JOB}/events?limt=5", "'limt' is not a parameter; did you mean"),
            ("GET", f"/jobs/{NO_JOB}?label.a=b", "'label.a' is not a parameter; legal: wait,"),
            ("GET", f"/jobs/{NO_JOB}/artifacts/x?y=1", "'y' is not a parameter; legal: none"),
            ("POST", "/jobs?dry_run=1", "'dry_run' is not a parameter; legal: none"),
            ("HEAD", "/healthz?x=1", ""),
        ],
    )  # fmt: skip
    def test_that_the_route_does_not_have(
        self, service: Service, method: str, path: str, says: str
    ) -> None:
        answer = service.http.request(method, path)
        assert answer.status_code == 422
        if method != "HEAD":
            problem = service.refused(answer, 422, "invalid_request")
            assert says in problem["detail"]

    def test_a_parameter_twice_anywhere(self, service: Service) -> None:
        service.refused(service.http.get("/datasets/x?a=1&a=1"), 422, "invalid_request")


@pytest.mark.column("embedded")
class TestJson:
    def post(self, service: Service, content: str | bytes) -> httpx.Response:
        headers = {"content-type": "application/json"}
        return service.http.post("/jobs", content=content, headers=headers)

    @pytest.mark.parametrize("opening", ["[", '{"a":'])
    @pytest.mark.parametrize("depth", [300, 900, 10_000])
    def test_deep_nesting(self, service: Service, opening: str, depth: int) -> None:
        closing = ("]" if opening == "[" else "}") * depth
        value = opening * depth + "1" + closing
        answer = self.post(service, f'{{"model": "tiny", "bits": 2, "metadata": {{"x": {value}}}}}')
        assert answer.status_code in (202, 400, 422), answer.text
        if answer.status_code != 202:
            assert answer.json()["code"] in ("malformed_json", "invalid_request")
            assert len(answer.content) < 10_000

    def test_thousands_of_unknown_fields(self, service: Service) -> None:
        content = json.dumps({f"{n}" * 3: n for n in range(40_000)})
        began = time.monotonic()
        problem = service.refused(self.post(service, content), 422, "invalid_request")
        assert len(problem["errors"]) == 20
        assert time.monotonic() - began < 5

    def test_a_very_long_name(self, service: Service) -> None:
        answer = self.post(service, json.dumps({"model": "tiny", "bits": 2, "x" * 500_000: 1}))
        service.refused(answer, 422, "invalid_request")
        assert len(answer.content) < 2000

    @pytest.mark.parametrize(
        "number",
        [
            "1" + "0" * 400,
            "1" + "0" * 10_000,
            "1e400",
            "-1e400",
            "NaN",
            "Infinity",
            "true",
            '"1"',
            "1.5",
        ],
    )
    def test_numbers(self, service: Service, number: str) -> None:
        for field in ("seed", "priority", "max_runtime_s", "bits"):
            answer = self.post(service, f'{{"model": "tiny", "bits": 2, "{field}": {number}}}')
            assert answer.status_code in (400, 422), (field, answer.text)
            assert len(answer.content) < 2000
            json.loads(answer.content, parse_constant=pytest.fail)

    @pytest.mark.parametrize(
        "content", [b'{"model": "\xff"}', b"\xef\xbb\xbf{}", "{}".encode("utf-16"), b"\x00"]
    )
    def test_other_encodings(self, service: Service, content: bytes) -> None:
        answer = self.post(service, content)
        assert answer.status_code in (400, 422)
        assert answer.headers["content-type"] == "application/problem+json"

    def test_a_name_twice_counts_the_last_time(self, service: Service) -> None:
        answer = self.post(service, '{"model": "tiny", "bits": 9, "bits": 3}')
        assert (answer.status_code, answer.json()["input"]["bits"]) == (202, 3)


class TestMethods:
    def test_head_is_get_without_a_body(self, service: Service) -> None:
        job = service.finished({"a.bin": b"0123456789"})
        urls = job["urls"]
        for path in (
            "/healthz",
            "/jobs",
            urls["self"],
            urls["logs"],
            urls["artifacts"],
            "/openapi.json",
        ):
            answer, got = service.http.head(path), service.http.get(path)
            assert (answer.status_code, answer.content) == (200, b"")
            assert answer.headers == got.headers
        file = service.http.head(urls["artifacts"] + "/a.bin")
        assert (file.status_code, file.headers["content-length"]) == (200, "10")
        for range in ("bytes=0-3", "bytes=99-"):  # of GET alone
            part = service.http.head(urls["artifacts"] + "/a.bin", headers={"range": range})
            assert (part.status_code, part.headers["content-length"]) == (200, "10")
        assert service.http.head("/jobs/job_none").status_code == 404
        counted = 'method="HEAD",route="/jobs/{job_id}",status="404"'
        figures = service.http.get("/metrics").text
        assert f"apiq_http_requests_total{{{counted}}} 1.0" in figures

    def test_head_of_a_stream_ends(self, live: Live) -> None:
        job = live.submit()
        answer = live.http.head(job["urls"]["events"], headers={"accept": "text/event-stream"})
        assert answer.headers["content-type"].startswith("text/event-stream")
        live.http.post(job["urls"]["cancel"])

    @pytest.mark.parametrize(
        ("path", "allowed"),
        [("/jobs", "GET, HEAD, POST"), (f"/jobs/{NO_JOB}", "DELETE, GET, HEAD"),
         (f"/jobs/{NO_JOB}/cancel", "POST"), ("/datasets", "GET, HEAD, POST")],
    )  # fmt: skip
    def test_what_is_allowed_is_said(self, service: Service, path: str, allowed: str) -> None:
        for method in ("PUT", "PATCH", "OPTIONS", "TRACE", "BREW"):
            answer = service.http.request(method, path)
            service.refused(answer, 405, "method_not_allowed")
            assert answer.headers["allow"] == allowed

    @pytest.mark.column("embedded")
    def test_methods_that_are_made_up_are_not_counted_apart(self, service: Service) -> None:
        for n in range(20):
            service.http.request(f"BREW{n}", "/jobs")
        assert "BREW" not in service.http.get("/metrics").text


@pytest.mark.column("embedded")
def test_a_failure_is_logged_without_values(
    settings: Settings, database: Database, tiny_model: Path
) -> None:
    """A traceback with the values of variables would hold tokens."""
    with serve(settings, tiny_model) as live:
        with live.context.database.begin() as connection:
            metadata.drop_all(connection)
        answer = live.http.get(f"/jobs/{NO_JOB}", headers={"x-secret": "canary"})
        assert answer.status_code == 500
    log = (settings.data_dir / "api.log").read_text()
    assert "request_failed" in log and "no such table" in log
    assert "canary" not in log
