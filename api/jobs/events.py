"""The history of a job, at once or as it happens."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from fastapi.sse import EventSourceResponse, format_sse_event
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from api.auth import Caller, JobsReader
from api.context import Context, Ctx
from api.ids import JobId
from api.problems import ApiError, keyed
from jobs import repository
from jobs.job import Job, JobEvent

router = APIRouter(tags=["jobs"])

KEEP_ALIVE_INTERVAL_S = 15.0
PAGE = 200


class EventView(BaseModel):
    """One thing that happened to a job."""

    seq: int = Field(description="1, 2, 3, ... without a gap.")
    type: str = Field(examples=["phase"])
    at: datetime
    data: dict[str, Any] = Field(examples=[{"phase": "quantizing"}])


class EventList(BaseModel):
    """The oldest first."""

    events: list[EventView]


@router.get(
    "/jobs/{job_id}/events",
    summary="List or follow a job's events",
    response_model=EventList,
    responses=keyed(
        "job_not_found",
        "invalid_request",
        beside={
            200: {
                "description": "The events; with `Accept: text/event-stream` one message an event, "
                "until the job has ended.",
                "content": {
                    "text/event-stream": {
                        "schema": {"type": "string"},
                        "example": 'id: 1\nevent: accepted\ndata: {"seq": 1, ...}\n\n',
                    }
                },
            }
        },
    ),
)
async def get_events(
    job_id: JobId,
    request: Request,
    context: Ctx,
    caller: JobsReader,
    after: Annotated[int, Query(ge=0, lt=2**31, description="Only later ones.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000, description="At most so many.")] = PAGE,
    last_event_id: Annotated[
        str | None, Header(description="As `after`; browsers send it when they reconnect.")
    ] = None,
) -> Response | EventList:
    """A list, or a stream for `Accept: text/event-stream`."""
    if "text/event-stream" not in request.headers.get("accept", ""):
        events, _ = await run_in_threadpool(_read, context, caller, job_id, after, limit)
        return EventList(events=[_view(event) for event in events])
    if last_event_id is not None:
        after = _parse_id(last_event_id)
    await run_in_threadpool(
        _read, context, caller, job_id, after, 1
    )  # 404 before the stream begins
    return EventSourceResponse(
        _stream(context, caller, job_id, after),
        headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
    )


async def _stream(
    context: Context, caller: Caller, job_id: str, after: int
) -> AsyncIterator[bytes]:
    """Ends when the job has and all is sent."""
    yield format_sse_event(comment="the events of " + job_id)
    while True:
        events, job = await run_in_threadpool(_read, context, caller, job_id, after, PAGE)
        for event in events:
            yield format_sse_event(
                id=str(event.seq), event=event.type, data_str=_view(event).model_dump_json()
            )
            after = event.seq
        if len(events) == PAGE:
            continue  # there may be a further page
        if job.is_terminal:
            return
        while not await context.watcher.changed(job_id, job.event_seq, KEEP_ALIVE_INTERVAL_S):
            yield format_sse_event(comment="still here")


def _read(
    context: Context, caller: Caller, job_id: str, after: int, limit: int
) -> tuple[list[JobEvent], Job]:
    """Events and the job, of one moment."""
    with context.database.read() as connection:
        job = repository.get(connection, job_id, caller.sees)
        events = repository.events_after(connection, job_id, after, limit)
    return events, job


def _view(event: JobEvent) -> EventView:
    return EventView(seq=event.seq, type=event.type, at=event.at, data=event.data or {})


def _parse_id(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ApiError(
            "invalid_request",
            f"Last-Event-ID is {text[:40]!r}; legal: the id of an event, 0 and up",
            pointer="Last-Event-ID:",
        )
    return int(text)
