"""Paths, ranges, queries and methods that nobody sends by accident."""

import pytest

from tests.integration.api.hostile.wire import NO_JOB, exchange, head
from tests.integration.api.live import Live
from tests.integration.api.support import Service


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
