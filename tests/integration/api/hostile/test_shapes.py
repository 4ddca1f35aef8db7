"""Requests that are none, and JSON that is none."""

import json
import time
from pathlib import Path

import httpx2
import pytest

from jobs.database import Database
from jobs.schema import metadata
from jobs.settings import Settings
from tests.integration.api.hostile.wire import (
    JSON,
    NO_JOB,
    exchange,
    head,
    refused,
)
from tests.integration.api.live import Live, serve
from tests.integration.api.support import Service


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
class TestJson:
    def post(self, service: Service, content: str | bytes) -> httpx2.Response:
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
