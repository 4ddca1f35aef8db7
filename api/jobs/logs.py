"""What a job's process printed."""

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import PlainTextResponse, Response

from api.auth import JobsReader
from api.context import Ctx
from api.ids import JobId
from api.problems import keyed
from api.streaming import ByteStream
from jobs import repository
from jobs.artifacts import ArtifactStore, log_key
from jobs.errors import ObjectNotFound

router = APIRouter(tags=["jobs"])

BLOCK_BYTES = 64 * 1024
MAX_TAIL_LINES = 10_000


@router.get(
    "/jobs/{job_id}/logs",
    summary="Read a job's log",
    response_class=PlainTextResponse,
    responses=keyed("job_not_found", "invalid_request", "not_ready"),
)
def get_logs(
    job_id: JobId,
    context: Ctx,
    caller: JobsReader,
    tail: Annotated[
        int | None, Query(ge=1, le=MAX_TAIL_LINES, description="Only the last so many lines.")
    ] = None,
) -> Response:
    """The output of its last attempt, while it runs and after; secrets are blanked out."""
    with context.database.read() as connection:
        job = repository.get(connection, job_id, caller.sees)
    key = log_key(job.id, job.attempt)
    headers = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
    media_type = "text/plain; charset=utf-8"
    try:
        size_bytes = context.store.size(key)
    except ObjectNotFound:  # nothing was printed yet
        return Response(b"", media_type=media_type, headers=headers)
    start = 0 if tail is None else _start_of_last_lines(context.store, key, size_bytes, tail)
    headers["content-length"] = str(size_bytes - start)
    chunks = context.store.open_range(key, start, size_bytes)
    return ByteStream(chunks, 200, headers, media_type)


def _start_of_last_lines(store: ArtifactStore, key: str, size_bytes: int, lines: int) -> int:
    """Search backwards, block by block; a line break at the very end ends no further line."""
    end, wanted = size_bytes, lines
    while end > 0:
        start = max(0, end - BLOCK_BYTES)
        block = b"".join(store.open_range(key, start, end))
        at = len(block) - 1 if end == size_bytes and block.endswith(b"\n") else len(block)
        while (at := block.rfind(b"\n", 0, at)) >= 0:
            wanted -= 1
            if not wanted:
                return start + at + 1
        end = start
    return 0
