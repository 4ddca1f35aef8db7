"""Follow a job's events over server-sent events, through broken connections."""

from collections.abc import Iterator

import httpx

from apiq_client.answers import raise_for_problem, unexpected
from apiq_client.errors import ProblemError
from apiq_client.outage import Outage
from apiq_client.records import TERMINAL_STATES, Event


def follow_events(http: httpx.Client, url: str, path: str, after: int) -> Iterator[Event]:
    """Yield events until the server says that the job has ended.

    After an outage it goes on behind the last event it saw: none is lost or doubled.
    """
    outage = Outage(url)
    while True:
        try:
            headers = {"accept": "text/event-stream", "last-event-id": str(after)}
            with http.stream("GET", path, headers=headers) as response:
                raise_for_problem(response)
                outage.is_over()
                kind = response.headers.get("content-type", "no content-type")
                if not kind.startswith("text/event-stream"):
                    raise unexpected(response, kind)
                for event in _parse(response.iter_lines()):
                    yield event
                    after = event.seq
                    if event.type in TERMINAL_STATES:
                        return
            return  # the server ends the stream once a finished job has no more events
        except (httpx.RequestError, ProblemError) as error:
            outage.endure(error)


def _parse(lines: Iterator[str]) -> Iterator[Event]:
    """The `data` of each event; comments (keep-alive) and other fields are skipped."""
    data: list[str] = []
    for line in lines:
        if line.startswith("data:"):
            data.append(line.removeprefix("data:").removeprefix(" "))
        elif not line and data:
            yield Event.model_validate_json("\n".join(data))
            data = []
