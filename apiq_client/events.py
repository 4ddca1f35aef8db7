"""Follow a job's events over server-sent events, through broken connections."""

import json
import time
from collections.abc import Iterator

import httpx

from apiq_client.errors import ProblemError, Unreachable
from apiq_client.records import TERMINAL_STATES, Event

RECONNECTS = 10  # in a row without a single event
PAUSE_S = 0.5


def follow_events(http: httpx.Client, url: str, path: str, after: int) -> Iterator[Event]:
    """Yield events until the server says that the job has ended.

    After a broken connection it goes on behind the last event it saw: none is lost or doubled.
    """
    failures = 0
    while True:
        try:
            headers = {"accept": "text/event-stream", "last-event-id": str(after)}
            with http.stream("GET", path, headers=headers) as response:
                if not response.is_success:
                    response.read()
                    raise ProblemError(response.status_code, _json(response))
                for event in _parse(response.iter_lines()):
                    yield event
                    after, failures = event.seq, 0
                    if event.type in TERMINAL_STATES:
                        return
            return  # the server ends the stream once a finished job has no more events
        except httpx.TransportError as error:
            failures += 1
            if failures > RECONNECTS:
                raise Unreachable(url, error) from error
            time.sleep(PAUSE_S)


def _parse(lines: Iterator[str]) -> Iterator[Event]:
    """The `data` of each event; comments (keep-alive) and other fields are skipped."""
    data: list[str] = []
    for line in lines:
        if line.startswith("data:"):
            data.append(line.removeprefix("data:").removeprefix(" "))
        elif not line and data:
            yield Event.model_validate_json("\n".join(data))
            data = []


def _json(response: httpx.Response) -> dict[str, object]:
    try:
        content = json.loads(response.content)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
