"""Calls of hours, against a server that is away for a while: it or its database restarts."""

import hashlib
import json
import threading
import time
from pathlib import Path

import pytest

from apiq_client import Artifact, Client, Event, ProblemError, Unreachable, outage, sdk
from tests.integration.client.command import Command
from tests.integration.client.scripted import AWAY, Answer, scripted

BYTES = b"weights" * 100
ARTIFACT = Artifact(
    path="w", size_bytes=len(BYTES), sha256=hashlib.sha256(BYTES).hexdigest(), content_type="x"
)
BEFORE_IT_GIVES_UP = 8  # answers, more than any call asks for that is not a long one


def job(state: str, event_seq: int) -> Answer:
    fields = {"id": "job_1", "type": "quantize", "state": state, "event_seq": event_seq}
    return Answer(json.dumps(fields | {"created_at": "2026-01-01T00:00:00Z"}).encode())


def events(*numbers: int) -> Answer:
    types = {1: "accepted", 2: "started", 3: "succeeded"}
    data = (
        Event.model_validate({"seq": n, "type": types[n], "at": "2026-01-01T00:00:00Z"})
        for n in numbers
    )
    stream = "".join(f"data: {event.model_dump_json()}\n\n" for event in data)
    return Answer(stream.encode(), headers={"content-type": "text/event-stream"})


@pytest.fixture
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outage, "FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(outage, "PATIENCE_S", 0.3)


def test_events_are_followed_through_a_503_and_it_is_told_once(tmp_path: Path) -> None:
    away = [AWAY] * BEFORE_IT_GIVES_UP
    with scripted(job("running", 1), *away, events(1, 2, 3)) as server:
        done = Command(server.url, tmp_path)("events", "-f", "job_1")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["1", "2", "3"]
    assert len(server.asked) == 1 + BEFORE_IT_GIVES_UP + 1
    assert done.stderr == f"no answer from {server.url}; asking again for up to 5 minutes\n"


def test_a_connection_that_only_broke_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    with scripted(AWAY, events(1, 3)) as server, Client(server.url) as client:
        assert [event.seq for event in client.events("job_1", follow=True)] == [1, 3]
    assert caplog.messages == []


def test_a_download_goes_on_after_a_503_of_the_store(tmp_path: Path) -> None:
    slow_down = Answer(b"<Error><Code>SlowDown</Code></Error>", 503, {"retry-after": "0"})
    away = [slow_down] * BEFORE_IT_GIVES_UP
    with scripted(*away, Answer(BYTES)) as server, Client(server.url) as client:
        file = client.download("job_1", ARTIFACT, tmp_path)
    assert file.read_bytes() == BYTES
    assert len(server.asked) == BEFORE_IT_GIVES_UP + 1


def test_a_job_is_waited_for_through_a_503() -> None:
    away = [AWAY] * BEFORE_IT_GIVES_UP
    answers = [job("running", 1), *away, job("succeeded", 2)]
    with scripted(*answers) as server, Client(server.url) as client:
        assert client.wait("job_1").state == "succeeded"


def test_a_job_is_waited_for_while_the_server_is_replaced() -> None:
    with scripted(job("running", 1), job("running", 2)) as server:
        client = Client(server.url)
        states = (job.state for job in client.watch("job_1"))
        assert next(states) == "running"
    began = time.monotonic()

    def come_back() -> None:
        time.sleep(3)
        with scripted(job("succeeded", 3), port=server.server_port) as again:
            while not again.asked:
                time.sleep(0.05)

    thread = threading.Thread(target=come_back)
    thread.start()
    assert list(states) == ["succeeded"]
    assert time.monotonic() - began >= 3
    client.close()
    thread.join()


@pytest.mark.usefixtures("impatience")
def test_patience_ends(tmp_path: Path) -> None:
    with scripted(job("running", 1), AWAY) as server, Client(server.url) as client:
        with pytest.raises(ProblemError, match="it restarts"):
            client.wait("job_1")
        with pytest.raises(ProblemError, match="it restarts"):
            list(client.events("job_1", follow=True))
        with pytest.raises(ProblemError, match="it restarts"):
            client.download("job_1", ARTIFACT, tmp_path)
    with Client(server.url) as client, pytest.raises(Unreachable):
        list(client.events("job_1", follow=True))


def test_what_does_not_pass_is_not_endured(tmp_path: Path) -> None:
    missing = Answer(b'{"code": "job_not_found"}', 404)
    with scripted(missing) as server, Client(server.url) as client:
        for call in (
            lambda: list(client.events("job_1", follow=True)),
            lambda: client.download("job_1", ARTIFACT, tmp_path),
            lambda: client.wait("job_1"),
        ):
            with pytest.raises(ProblemError) as caught:
                call()
            assert caught.value.code == "job_not_found"
    assert len(server.asked) == 3
    elsewhere = Answer(b"", 307, headers={"location": "ftp://server"})
    with (
        scripted(elsewhere) as server,
        Client(server.url) as client,
        pytest.raises(Unreachable, match="protocol"),
    ):
        list(client.events("job_1", follow=True))


def test_a_problem_may_be_any_json(tmp_path: Path) -> None:
    with (
        scripted(Answer(b"[]", 500)) as server,
        Client(server.url) as client,
        pytest.raises(ProblemError, match="the server answered 500"),
    ):
        client.download("job_1", ARTIFACT, tmp_path)


def test_a_wait_that_ends_early_says_how_to_go_on(tmp_path: Path) -> None:
    gone = Answer(b'{"code": "unauthorized", "detail": "the key was revoked"}', 401)
    with scripted(job("queued", 1), job("running", 2), gone) as server:
        done = Command(server.url, tmp_path)("quantize", "tiny", "--bits", "2", "--wait", code=1)
    *_, goes_on, watch, _, fetch, error = done.stderr.splitlines()
    assert goes_on == "job_1 goes on without you:"
    assert watch.endswith("apiq events -f job_1")
    assert fetch.endswith("apiq artifacts download job_1")
    assert error.startswith("error: the key was revoked") and error.endswith("[unauthorized]")


def test_a_short_read_is_repeated_and_a_write_is_not() -> None:
    answers = [AWAY, AWAY, Answer(b'{"version": "1"}')]
    with scripted(*answers) as server, Client(server.url) as client:
        assert client.version() == {"version": "1"}
        assert server.asked == ["GET /version"] * 3
        server.answers, server.asked = [AWAY], []
        with pytest.raises(ProblemError):
            client.cancel("job_1")
        assert server.asked == ["POST /jobs/job_1/cancel"]


def test_a_slow_server_is_not_asked_twice() -> None:
    with scripted(Answer(b"{}", after_s=0.6)) as server, Client(server.url, timeout_s=0.2) as short:
        with pytest.raises(Unreachable, match=r"did not answer within 0\.2 s") as caught:
            short.version()
        assert "apiq up" not in caught.value.message
        time.sleep(0.5)
        assert server.asked == ["GET /version"]


def test_what_takes_long_has_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "text.txt"
    file.write_text("some words")
    sizes = {"size_bytes": 10, "characters": 10, "sha256": "0" * 64}
    dataset = json.dumps({"id": "ds_1", "created_at": "2026-01-01T00:00:00Z"} | sizes).encode()
    with scripted(Answer(b'{"rows": []}', after_s=0.6), Answer(dataset, after_s=0.6)) as server:
        with Client(server.url, timeout_s=0.2) as client:
            assert client.preview_dataset("ds_1").rows == []
            assert client.upload_dataset(file).id == "ds_1"
        monkeypatch.setattr(sdk, "SLOW_TIMEOUT_S", 0.3)
        with Client(server.url) as client, pytest.raises(Unreachable, match=r"within 0\.3 s"):
            client.preview_dataset("ds_1")
        time.sleep(0.5)
        assert len(server.asked) == 3
