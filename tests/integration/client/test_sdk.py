"""The SDK against a real server, over connections that really break."""

import hashlib
import json
import os
import re
import threading
import time
from pathlib import Path

import pytest

from apiq_client import (
    ApiqError,
    Artifact,
    Client,
    DownloadError,
    JobFailed,
    ProblemError,
    Unreachable,
)
from apiq_client import outage as outages
from jobs.settings import Settings
from tests.integration.api.live import Live, serve
from tests.integration.client.cutting_proxy import cutting_proxy
from tests.servers import Servers

WEIGHTS = os.urandom(3_000_000)
FILES = {"model/model.safetensors": WEIGHTS, "report.json": b"{}", "adapter/empty": b""}


@pytest.fixture(scope="module")
def job_id(live: Live) -> str:
    return str(live.finished(FILES)["id"])


def weights(client: Client, job_id: str) -> Artifact:
    return next(x for x in client.artifacts(job_id) if x.path.endswith("safetensors"))


class TestJobs:
    def test_from_submission_to_download(self, live: Live, client: Client, tmp_path: Path) -> None:
        job = client.quantize("tiny", 2, labels={"k": "v"}, calibration={"samples": 8})
        assert (job.state, job.input["calibration"]["samples"]) == ("queued", 8)
        assert not job.is_finished
        assert client.job(job.id) == job
        live.publish(live.claim_only(job.id), FILES)
        job = client.wait(job.id)
        assert (job.state, job.metrics) == ("succeeded", {"bits_per_weight": 2.5})
        paths = client.download_all(job.id, tmp_path)
        assert {str(x.relative_to(tmp_path)): x.read_bytes() for x in paths} == FILES

    def test_a_lost_answer_makes_no_second_job(self, live: Live) -> None:
        with cutting_proxy(live.url) as proxy, Client(proxy.url) as client:
            proxy.cuts = [0, 40]  # the request arrived, its answer did not
            job = client.quantize("tiny", 2, labels={"lost": "answer"})
            assert proxy.cuts == []
            sent = b"".join(proxy.requests).decode()
            assert [x.id for x in client.jobs(labels={"lost": "answer"})] == [job.id]
            other = client.quantize("tiny", 2, labels={"lost": "answer"})
            assert other.id != job.id
        keys = re.findall(r"idempotency-key: (\S+)", sent, re.I)
        assert len(keys) == 3 and len(set(keys)) == 1

    def test_other_writes_are_not_repeated(self, live: Live) -> None:
        job_id = live.submit()["id"]
        with cutting_proxy(live.url) as proxy, Client(proxy.url) as client:
            proxy.cuts = [0]
            with pytest.raises(Unreachable):
                client.cancel(job_id)

    def test_retry_and_delete(self, client: Client) -> None:
        job = client.quantize("tiny", 2)
        with pytest.raises(ProblemError) as caught:
            client.delete(job.id)
        assert caught.value.code == "job_not_finished"
        client.cancel(job.id)
        again = client.retry(job.id)
        assert (again.retry_of, again.input) == (job.id, job.input)
        client.cancel(again.id)
        client.delete(job.id)
        with pytest.raises(ProblemError) as caught:
            client.job(job.id)
        assert caught.value.code == "job_not_found"

    def test_a_job_that_is_waited_for(self, live: Live, client: Client) -> None:
        job = client.quantize("tiny", 2)
        began = time.monotonic()
        assert client.job(job.id, wait_s=0.7) == job
        assert time.monotonic() - began >= 0.7
        assert client.job(job.id, wait_s=50, after=0) == job  # news to who knows nothing
        live.claim_only(job.id)
        changed = client.job(job.id, wait_s=50, after=job.event_seq)
        assert (changed.state, changed.event_seq) == ("running", 2)
        assert time.monotonic() - began < 30

    def test_list_goes_through_all_pages(self, client: Client) -> None:
        made = [client.quantize("tiny", 4, labels={"list": "1"}).id for _ in range(3)]
        assert [job.id for job in client.jobs(labels={"list": "1"})] == made[::-1]
        assert [job.id for job in client.jobs(labels={"list": "1"}, limit=2)] == made[:0:-1]
        assert client.cancel(made[0]).state == "cancelled"
        assert {job.state for job in client.jobs(labels={"list": "1"}, state="queued")} == {
            "queued"
        }

    def test_wait_for_a_job_that_fails(self, live: Live, client: Client) -> None:
        job = client.quantize("tiny", 2)
        error = {"code": "disk_full", "message": "no space", "fault": "infra", "retryable": True}
        live.fail(live.claim_only(job.id), error)
        with pytest.raises(JobFailed) as caught:
            client.wait(job.id)
        assert (caught.value.code, caught.value.state) == ("disk_full", "failed")
        assert "no space" in caught.value.message

    def test_watch_yields_each_change(self, live: Live, client: Client) -> None:
        job = client.quantize("tiny", 2)
        seen = []
        for seen_job in client.watch(job.id):
            seen.append(seen_job.state)
            if seen_job.state == "queued":
                claimed = live.claim_only(job.id)
            elif seen_job.state == "running":
                live.publish(claimed, {})
        assert seen == ["queued", "running", "succeeded"]

    def test_events(self, client: Client, job_id: str) -> None:
        listed = list(client.events(job_id))
        assert [event.type for event in listed] == ["accepted", "started", "succeeded"]
        assert list(client.events(job_id, follow=True)) == listed
        assert list(client.events(job_id, after=1, follow=True)) == listed[1:]

    def test_following_survives_broken_connections(self, live: Live) -> None:
        job_id = live.submit()["id"]
        claimed = live.claim_only(job_id)
        live.record(claimed, *[("block", {"index": i, "pad": "x" * 300}) for i in range(20)])
        with cutting_proxy(live.url) as proxy, Client(proxy.url) as client:
            proxy.cuts = [0, 700, 1500, 30, 2500]
            seen: list[int] = []

            def follow() -> None:
                seen.extend(event.seq for event in client.events(job_id, follow=True))

            thread = threading.Thread(target=follow)
            thread.start()
            live.publish(claimed, {})
            thread.join(60)
            assert seen == list(range(1, 24))
            assert proxy.cuts == []

    def test_logs(self, live: Live, client: Client, job_id: str) -> None:
        job = client.quantize("tiny", 2)
        live.put_log(live.claim_only(job.id), b"one\ntwo\n")
        assert client.logs(job.id) == "one\ntwo\n"
        assert client.logs(job.id, tail=1) == "two\n"

    def test_problems_carry_code_and_fields(self, client: Client) -> None:
        with pytest.raises(ProblemError) as caught:
            client.quantize("tiny", 5)
        assert (caught.value.status, caught.value.code) == (422, "invalid_request")
        assert caught.value.errors[0]["pointer"] == "#/bits"
        for job_id in ("job_none", "..", "a/b", ""):
            with pytest.raises(ProblemError) as caught:
                client.job(job_id) if job_id else client.cancel("")
            assert caught.value.status == 404

    def test_nobody_answers(self) -> None:
        with Client("http://127.0.0.1:9") as client, pytest.raises(Unreachable) as caught:
            client.job("job_none")
        assert "http://127.0.0.1:9" in caught.value.message
        assert "apiq up" in caught.value.message


class TestDatasets:
    def test_upload_list_delete(self, client: Client, tmp_path: Path) -> None:
        file = tmp_path / "text.txt"
        file.write_text("Grüße " * 100)
        dataset = client.upload_dataset(file)
        assert (dataset.name, dataset.characters) == ("text.txt", 600)
        assert dataset.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
        assert dataset in client.datasets()
        assert client.dataset(dataset.id) == dataset
        (row,) = client.preview_dataset(dataset.id).rows
        assert [(x.text, x.learned) for x in row.segments] == [("Grüße " * 100, True)]
        client.delete_dataset(dataset.id)
        assert dataset not in client.datasets()

    def test_the_list_is_of_all_pages(self, client: Client, tmp_path: Path) -> None:
        file = tmp_path / "text.txt"
        file.write_text("some text")
        made = [client.upload_dataset(file, name=str(n)) for n in range(101)]  # a page has 100
        assert client.datasets()[:101] == made[::-1]

    @pytest.mark.parametrize("suffix", [".jsonl", ".NDJSON"])
    def test_rows(self, client: Client, tmp_path: Path, suffix: str) -> None:
        file = tmp_path / f"rows{suffix}"
        file.write_text('{"question": "How many?", "answer": "4"}\n' * 2)
        dataset = client.upload_dataset(file)
        assert (dataset.kind, dataset.rows, dataset.duplicates) == ("rows", 2, 1)
        assert dataset in client.datasets()
        first, second = client.preview_dataset(dataset.id).rows
        assert first == second and first.shape == "question"
        assert [(x.text, x.learned) for x in first.segments] == [
            ("Question: How many?\nAnswer:", False),
            (" 4", True),
        ]
        with_tokens = client.preview_dataset(dataset.id, base="tiny")
        assert with_tokens.counts is not None and with_tokens.rows[0].tokens is not None
        assert with_tokens.counts.tokens == 2 * len(with_tokens.rows[0].tokens)

    def test_bad_rows_are_told(self, client: Client, tmp_path: Path) -> None:
        file = tmp_path / "rows.jsonl"
        file.write_text('{"text": "a"}\n{"text": 3}\n{}\n')
        with pytest.raises(ProblemError) as caught:
            client.upload_dataset(file)
        assert caught.value.code == "bad_rows"
        assert "2 lines are no rows; line 2, text: a number" in caught.value.message
        assert [x["pointer"] for x in caught.value.errors] == ["line 2, text", "line 3"]


class TestDownload:
    @pytest.mark.column("embedded")
    def test_is_continued_where_it_broke(self, live: Live, job_id: str, tmp_path: Path) -> None:
        with cutting_proxy(live.url) as proxy:
            with Client(proxy.url) as client:
                artifact = weights(client, job_id)
            proxy.requests.clear()
            proxy.cuts = [1_000_000, 700_000, 5, 400_000]
            received: list[int] = []
            with Client(proxy.url) as client:
                path = client.download(job_id, artifact, tmp_path, on_bytes=received.append)
            heads = b"".join(proxy.requests).decode()
        assert path.read_bytes() == WEIGHTS
        assert sum(received) == len(WEIGHTS)
        starts = [int(x) for x in re.findall(r"range: bytes=(\d+)-", heads, re.I)]
        assert len(starts) == 5
        assert starts == sorted(starts)
        assert starts[0] == 0 and starts[1] > 900_000 and starts[-1] > 2_000_000
        assert not list(tmp_path.rglob("*.part"))

    @pytest.mark.column("production")
    def test_is_continued_where_the_store_broke(
        self, settings: Settings, servers: Servers, tiny_model: Path, tmp_path: Path
    ) -> None:
        with cutting_proxy(servers.s3.url) as proxy:
            settings = settings.model_copy(update={"s3_public_url": proxy.url})
            with serve(settings, tiny_model) as live, Client(live.url) as client:
                job_id = live.finished(FILES)["id"]
                proxy.cuts = [1_000_000, 700_000, 5, 400_000]
                path = client.download(job_id, weights(client, job_id), tmp_path)
        assert path.read_bytes() == WEIGHTS
        assert proxy.cuts == []
        heads = b"".join(proxy.requests).decode()
        starts = [int(x) for x in re.findall(r"range: bytes=(\d+)-", heads, re.I)]
        assert starts == sorted(starts)
        assert starts[0] == 0 and starts[1] > 900_000 and starts[-1] > 2_000_000

    @pytest.mark.column("embedded")
    def test_gives_up_and_goes_on_later(
        self, live: Live, job_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(outages, "PATIENCE_S", 0.3)
        with cutting_proxy(live.url) as proxy:
            with Client(proxy.url) as client:
                artifact = weights(client, job_id)
            proxy.cuts = [1_500_000, 10]
            with Client(proxy.url) as client, pytest.raises(Unreachable):
                client.download(job_id, artifact, tmp_path)
            part = tmp_path / (artifact.path + ".part")
            assert 1_000_000 < part.stat().st_size < 1_500_000
            assert not (tmp_path / artifact.path).exists()
            with Client(proxy.url) as client:
                before = part.stat().st_size
                received: list[int] = []
                client.download(job_id, artifact, tmp_path, on_bytes=received.append)
        assert received[0] == before
        assert (tmp_path / artifact.path).read_bytes() == WEIGHTS

    def test_a_wrong_part_is_found_by_its_sha256(
        self, client: Client, job_id: str, tmp_path: Path
    ) -> None:
        artifact = weights(client, job_id)
        part = tmp_path / (artifact.path + ".part")
        part.parent.mkdir()
        part.write_bytes(b"x" * 1000)
        with pytest.raises(DownloadError) as caught:
            client.download(job_id, artifact, tmp_path)
        assert artifact.sha256 in caught.value.message
        assert not part.exists() and not (tmp_path / artifact.path).exists()
        assert client.download(job_id, artifact, tmp_path).read_bytes() == WEIGHTS

    def test_a_part_that_is_too_long_is_begun_anew(
        self, client: Client, job_id: str, tmp_path: Path
    ) -> None:
        artifact = weights(client, job_id)
        part = tmp_path / (artifact.path + ".part")
        part.parent.mkdir()
        part.write_bytes(WEIGHTS + b"more")
        assert client.download(job_id, artifact, tmp_path).read_bytes() == WEIGHTS

    def test_what_is_there_is_not_fetched_again(
        self, live: Live, job_id: str, tmp_path: Path
    ) -> None:
        with cutting_proxy(live.url) as proxy, Client(proxy.url) as client:
            artifact = weights(client, job_id)
            client.download(job_id, artifact, tmp_path)
            proxy.requests.clear()
            client.download(job_id, artifact, tmp_path)
            assert proxy.requests == []
            (tmp_path / artifact.path).write_bytes(b"x" * len(WEIGHTS))  # damaged
            assert client.download(job_id, artifact, tmp_path).read_bytes() == WEIGHTS

    @pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x", "", "a\\b", ".."])
    def test_a_server_cannot_write_elsewhere(
        self, client: Client, job_id: str, tmp_path: Path, path: str
    ) -> None:
        artifact = Artifact(path=path, size_bytes=2, sha256="0" * 64, content_type="x")
        with pytest.raises(DownloadError):
            client.download(job_id, artifact, tmp_path / "in")
        assert list(tmp_path.iterdir()) == []


def test_newer_servers_may_add_fields(client: Client, job_id: str) -> None:
    answer = json.loads(client.job(job_id).model_dump_json()) | {"new_field": 1}
    assert type(client.job(job_id)).model_validate(answer).id == job_id


def test_the_files_of_two_jobs_do_not_mix(live: Live, client: Client, tmp_path: Path) -> None:
    jobs = []
    for _ in range(2):
        job_id = client.quantize("tiny", bits=2).id
        manifest = json.dumps({"job": job_id}).encode()
        live.publish(live.claim_only(job_id), {"manifest.json": manifest})
        jobs.append(job_id)
    client.download_all(jobs[0], tmp_path)
    client.download_all(jobs[0], tmp_path)  # again is no error
    with pytest.raises(ApiqError, match=f"has the files of another job, {jobs[0]}"):
        client.download_all(jobs[1], tmp_path)
    assert json.loads((tmp_path / "manifest.json").read_text())["job"] == jobs[0]
