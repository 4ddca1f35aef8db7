"""Events as a list and as a stream, in process (a real connection: test_server.py)."""

import json
from typing import Any

import pytest

from tests.integration.api.support import Service

STREAM = {"accept": "text/event-stream"}


def parse(text: str) -> list[dict[str, Any]]:
    """The events of a stream; checks that id, event and data agree."""
    found = []
    for block in text.strip().split("\n\n"):
        fields = dict(
            line.split(": ", 1) for line in block.splitlines() if not line.startswith(":")
        )
        if fields:
            event = json.loads(fields["data"])
            assert fields["id"] == str(event["seq"])
            assert fields["event"] == event["type"]
            found.append(event)
    return found


@pytest.fixture
def job(service: Service) -> dict[str, Any]:
    """A job with a history of six events."""
    job = service.submit()
    claimed = service.claim()
    service.record(claimed, ("phase", {"phase": "quantizing"}), phase="quantizing")
    service.record(claimed, *[("block", {"index": i, "note": "ü\n\n:"}) for i in range(2)])
    service.publish(claimed, {"report.json": b"{}"})
    return job


def test_list(service: Service, job: dict[str, Any]) -> None:
    events = service.http.get(job["urls"]["events"]).json()["events"]
    assert [event["seq"] for event in events] == [1, 2, 3, 4, 5, 6]
    assert [event["type"] for event in events] == [
        *("accepted", "started", "phase", "block", "block", "succeeded")
    ]
    page = service.http.get(job["urls"]["events"], params={"after": 2, "limit": 2}).json()
    assert page["events"] == events[2:4]
    assert service.http.get(job["urls"]["events"], params={"after": 6}).json() == {"events": []}


def test_stream_of_a_finished_job_ends(service: Service, job: dict[str, Any]) -> None:
    answer = service.http.get(job["urls"]["events"], headers=STREAM)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = service.http.get(job["urls"]["events"]).json()["events"]
    assert parse(answer.text) == events


@pytest.mark.parametrize("way", ["header", "query"])
def test_stream_goes_on_where_it_broke(service: Service, job: dict[str, Any], way: str) -> None:
    headers = STREAM | ({"last-event-id": "4"} if way == "header" else {})
    params = {"after": 4} if way == "query" else {}
    answer = service.http.get(job["urls"]["events"], headers=headers, params=params)
    assert [event["seq"] for event in parse(answer.text)] == [5, 6]


@pytest.mark.parametrize("value", ["x", "-1", "1.5", "9" * 30, "٣"])
def test_bad_last_event_id(service: Service, job: dict[str, Any], value: str) -> None:
    headers = {b"accept": b"text/event-stream", b"last-event-id": value.encode()}
    answer = service.http.get(job["urls"]["events"], headers=headers)
    problem = service.refused(answer, 422, "invalid_request")
    assert [error["pointer"] for error in problem["errors"]] == ["Last-Event-ID:"]


def test_more_events_than_a_page(service: Service) -> None:
    job = service.submit()
    claimed = service.claim()
    service.record(claimed, *[("block", {"index": i}) for i in range(450)])
    service.publish(claimed, {})
    answer = service.http.get(job["urls"]["events"], headers=STREAM)
    assert [event["seq"] for event in parse(answer.text)] == list(range(1, 454))


def test_progress_and_error_are_on_the_job(service: Service) -> None:
    job = service.submit()
    claimed = service.claim()
    progress = {"done": 1, "total": 4, "unit": "blocks", "percent": 25.0, "eta_seconds": None}
    service.record(claimed, phase="quantizing", progress=progress)
    shown = service.http.get(job["urls"]["self"]).json()
    assert (shown["state"], shown["phase"], shown["attempt"]) == ("running", "quantizing", 1)
    assert shown["progress"] == progress
    error = {"code": "too_little_text", "message": "m", "fault": "user", "retryable": False}
    service.fail(claimed, error | {"param": "calibration.samples", "value": 3})
    shown = service.http.get(job["urls"]["self"]).json()
    assert shown["state"] == "failed"
    assert shown["error"] == error | {"param": "calibration.samples", "value": 3}
    assert shown["metrics"] == {}
