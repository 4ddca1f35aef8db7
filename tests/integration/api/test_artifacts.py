"""Downloads: whole, in ranges, as a tar; never of an unfinished job, never from elsewhere."""

import hashlib
import io
import tarfile
from typing import Any

import httpx
import pytest

from tests.integration.api.support import Service, fetch
from tests.unit.api.test_tar import content_of

WEIGHTS = bytes(range(256)) * 8192  # 2 MiB
FILES = {
    "model/model.safetensors": WEIGHTS,
    "model/config.json": b'{"a": 1}',
    "adapter/empty": b"",
    "report.json": b"{}",
}
JOB = "job_00000000-0000-7000-8000-000000000000"


@pytest.fixture
def job(service: Service) -> dict[str, Any]:
    return service.finished(FILES)


def test_list(service: Service, job: dict[str, Any]) -> None:
    listing = service.http.get(job["urls"]["artifacts"]).json()["artifacts"]
    assert [item["path"] for item in listing] == sorted(FILES)
    for item in listing:
        content = FILES[item["path"]]
        assert item["size_bytes"] == len(content)
        assert item["sha256"] == hashlib.sha256(content).hexdigest()
        assert fetch(service, item["url"]).content == content


def test_metrics_of_a_succeeded_job_are_shown(job: dict[str, Any]) -> None:
    assert job["state"] == "succeeded"
    assert job["metrics"] == {"bits_per_weight": 2.5}


@pytest.mark.column("embedded")  # where the API sends the bytes itself
class TestDownload:
    url: str
    etag = f'"{hashlib.sha256(WEIGHTS).hexdigest()}"'

    @pytest.fixture(autouse=True)
    def _url(self, job: dict[str, Any]) -> None:
        self.url = f"{job['urls']['artifacts']}/model/model.safetensors"

    def test_whole(self, service: Service) -> None:
        answer = service.http.get(self.url)
        assert (answer.status_code, answer.content) == (200, WEIGHTS)
        assert answer.headers["etag"] == self.etag
        assert answer.headers["accept-ranges"] == "bytes"
        assert answer.headers["content-length"] == str(len(WEIGHTS))
        assert answer.headers["content-type"] == "application/octet-stream"

    @pytest.mark.parametrize(
        ("asked", "start", "end"),
        [
            ("bytes=0-0", 0, 1),
            ("bytes=1000-", 1000, len(WEIGHTS)),
            ("bytes=1048570-1048580", 1048570, 1048581),  # over the border of two chunks
            ("bytes=-5", len(WEIGHTS) - 5, len(WEIGHTS)),
            ("bytes=0-99999999", 0, len(WEIGHTS)),
        ],
    )
    def test_range(self, service: Service, asked: str, start: int, end: int) -> None:
        answer = service.http.get(self.url, headers={"range": asked})
        assert (answer.status_code, answer.content) == (206, WEIGHTS[start:end])
        assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(WEIGHTS)}"
        assert answer.headers["content-length"] == str(end - start)

    @pytest.mark.parametrize("asked", ["bytes=2097152-", "bytes=9999999-", f"bytes={'9' * 19}-"])
    def test_range_past_the_end(self, service: Service, asked: str) -> None:
        answer = service.http.get(self.url, headers={"range": asked})
        problem = service.refused(answer, 416, "range_not_satisfiable")
        assert answer.headers["content-range"] == f"bytes */{len(WEIGHTS)}"
        assert asked in problem["detail"] and str(len(WEIGHTS)) in problem["detail"]

    @pytest.mark.parametrize("asked", ["bytes=0-1,3-4", "bytes=x", "lines=0-1", "bytes=5-2"])
    def test_other_ranges_are_answered_in_full(self, service: Service, asked: str) -> None:
        assert service.http.get(self.url, headers={"range": asked}).content == WEIGHTS

    def test_if_range(self, service: Service) -> None:
        headers = {"range": "bytes=1-2", "if-range": self.etag}
        assert service.http.get(self.url, headers=headers).status_code == 206
        headers["if-range"] = '"another"'
        assert service.http.get(self.url, headers=headers).content == WEIGHTS

    @pytest.mark.parametrize("known", ["{etag}", '"x", {etag}', "W/{etag}", "*"])
    def test_if_none_match(self, service: Service, known: str) -> None:
        headers = {"if-none-match": known.format(etag=self.etag)}
        answer = service.http.get(self.url, headers=headers)
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["etag"] == self.etag

    def test_if_none_match_of_another_file(self, service: Service) -> None:
        assert service.http.get(self.url, headers={"if-none-match": '"x"'}).content == WEIGHTS


@pytest.mark.column("production")
class TestRedirect:
    def test_the_bytes_come_from_the_store(self, service: Service, job: dict[str, Any]) -> None:
        url = f"{job['urls']['artifacts']}/model/model.safetensors"
        assert fetch(service, url).content == WEIGHTS
        part = fetch(service, url, range="bytes=1000-1999")
        assert (part.status_code, part.content) == (206, WEIGHTS[1000:2000])
        assert part.headers["content-range"] == f"bytes 1000-1999/{len(WEIGHTS)}"

    def test_what_is_known_needs_no_redirect(self, service: Service, job: dict[str, Any]) -> None:
        url = f"{job['urls']['artifacts']}/model/model.safetensors"
        etag = f'"{hashlib.sha256(WEIGHTS).hexdigest()}"'
        assert fetch(service, url, **{"if-none-match": etag}).status_code == 304

    def test_the_url_is_of_one_object_and_not_kept(
        self, service: Service, job: dict[str, Any]
    ) -> None:
        url = f"{job['urls']['artifacts']}/report.json"
        answer = service.http.get(url, follow_redirects=False)
        assert answer.headers["cache-control"] == "no-store"
        other = answer.headers["location"].replace("report.json", "model/config.json")
        assert httpx.get(other).status_code == 403


def test_an_empty_file(service: Service, job: dict[str, Any]) -> None:
    answer = fetch(service, f"{job['urls']['artifacts']}/adapter/empty")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == "0"


def test_tar(service: Service, job: dict[str, Any]) -> None:
    answer = service.http.get(f"/jobs/{job['id']}/artifacts.tar")
    assert answer.headers["content-length"] == str(len(answer.content))
    assert f'filename="{job["id"]}.tar"' in answer.headers["content-disposition"]
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
        found = {info.name: content_of(tar, info) for info in tar}
    assert found == {f"{job['id']}/{path}": content for path, content in FILES.items()}


@pytest.mark.parametrize(
    "path",
    [
        "none",
        "model",
        "model/",
        "/model/config.json",
        "model//config.json",
        "./model/config.json",
        "model/../report.json",
        "%2e%2e/%2e%2e/child.log",
        "..%2f..%2f..%2f..%2fapiq.db",
        "%2fetc%2fpasswd",
        "report.json%00",
        "report.json%0a",
        "model%5cconfig.json",
        "REPORT.JSON",
        "x" * 3000,
    ],
)
def test_path_tricks(service: Service, job: dict[str, Any], path: str) -> None:
    answer = fetch(service, f"{job['urls']['artifacts']}/{path}")
    if answer.status_code == 200:  # dots folded by the client, a line break by the router
        assert path in ("./model/config.json", "model/../report.json", "report.json%0a")
        assert answer.content in (FILES["model/config.json"], FILES["report.json"])
        return
    assert answer.status_code == 404
    assert answer.json()["code"] in ("artifact_not_found", "not_found", "job_not_found")
    assert len(answer.content) < 1000


@pytest.mark.parametrize("path", ["artifacts", "artifacts.tar", "artifacts/report.json"])
def test_of_an_unfinished_job(service: Service, path: str) -> None:
    job = service.submit()
    url = f"/jobs/{job['id']}/{path}"
    assert "queued" in service.refused(service.http.get(url), 409, "job_not_finished")["detail"]
    claimed = service.claim()
    assert "running" in service.refused(service.http.get(url), 409, "job_not_finished")["detail"]
    # what is in the store already is not visible before it is published
    service.put(f"jobs/{claimed.id}/attempts/1/files/report.json", b"{}")
    service.refused(service.http.get(url), 409, "job_not_finished")
    service.fail(claimed, {"code": "x", "message": "y", "fault": "user", "retryable": False})
    problem = service.refused(service.http.get(url), 409, "job_not_finished")
    assert problem["detail"] == f"{job['id']} has ended as failed, and made no artifacts"
    service.refused(service.http.get(f"/jobs/{JOB}/{path}"), 404, "job_not_found")


class TestLogs:
    def test_nothing_was_printed_yet(self, service: Service) -> None:
        job = service.submit()
        assert service.http.get(job["urls"]["logs"]).text == ""

    @pytest.mark.parametrize("tail", [1, 2, 3, 1000])
    @pytest.mark.parametrize("end", ["", "\n"])
    def test_tail(self, service: Service, tail: int, end: str) -> None:
        job = service.submit()
        lines = [f"line {i} " + "x" * (i * 40_000) for i in range(4)]
        service.put_log(service.claim(), ("\n".join(lines) + end).encode())
        answer = service.http.get(job["urls"]["logs"], params={"tail": tail})
        assert answer.text == "\n".join(lines[-tail:]) + end
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"

    def test_whole(self, service: Service) -> None:
        job = service.submit()
        service.put_log(service.claim(), b"one\ntwo\n")
        assert service.http.get(job["urls"]["logs"]).text == "one\ntwo\n"

    def test_bad_tail(self, service: Service) -> None:
        job = service.submit()
        answer = service.http.get(job["urls"]["logs"], params={"tail": 0})
        assert "at least 1" in service.refused(answer, 422, "invalid_request")["detail"]
