"""What a succeeded job has published: the list, one file, or all of them as a tar."""

from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Header, Request
from pydantic import BaseModel, Field
from starlette.responses import RedirectResponse, Response

from api.auth import ArtifactsReader, Caller
from api.context import Context, Ctx
from api.head import MARK
from api.ids import JobId
from api.jobs import tar
from api.jobs.ranges import RangeNotSatisfiable, parse_range
from api.problems import ApiError, keyed
from api.streaming import ByteStream
from jobs import repository
from jobs.job import Artifact, Job
from jobs.states import TERMINAL, State

router = APIRouter(tags=["artifacts"])

CODES = ("job_not_found", "job_not_finished")


class ArtifactView(BaseModel):
    """One file."""

    path: str = Field(examples=["model/model.safetensors"])
    size_bytes: int
    sha256: str = Field(description="In hex; also the file's ETag.")
    content_type: str
    url: str = Field(description="Where its bytes are.")


class ArtifactList(BaseModel):
    """Every file of a job, by path."""

    artifacts: list[ArtifactView]


@router.get("/jobs/{job_id}/artifacts", summary="List a job's artifacts", responses=keyed(*CODES))
def list_artifacts(job_id: JobId, context: Ctx, caller: ArtifactsReader) -> ArtifactList:
    """Path, size and checksum of each file. There are none before the job has succeeded."""
    _, artifacts = _published(context, caller, job_id)
    return ArtifactList(
        artifacts=[
            ArtifactView(
                path=artifact.path,
                size_bytes=artifact.size_bytes,
                sha256=artifact.sha256,
                content_type=artifact.content_type,
                url=f"/jobs/{job_id}/artifacts/{quote(artifact.path)}",
            )
            for artifact in artifacts
        ]
    )


@router.get(
    "/jobs/{job_id}/artifacts.tar",
    summary="Download all artifacts",
    response_class=Response,
    responses=keyed(
        *CODES,
        beside={200: {"content": {"application/x-tar": {}}, "description": "A tar archive."}},
    ),
)
def download_archive(job_id: JobId, context: Ctx, caller: ArtifactsReader) -> Response:
    """All files in one tar archive, made as it is sent; Content-Length is known."""
    job, artifacts = _published(context, caller, job_id)
    members = [
        tar.Member(
            name=f"{job.id}/{artifact.path}",
            key=artifact.key,
            size_bytes=artifact.size_bytes,
            changed_at=job.finished_at or job.created_at,
        )
        for artifact in artifacts
    ]
    headers = {
        "content-length": str(tar.archive_size(members)),
        "content-disposition": f'attachment; filename="{job.id}.tar"',
    }
    chunks = tar.archive(members, context.store.open_range)
    return ByteStream(chunks, 200, headers, "application/x-tar")


@router.get(
    "/jobs/{job_id}/artifacts/{path:path}",
    summary="Download an artifact",
    response_class=Response,
    responses=keyed(
        *CODES,
        "artifact_not_found",
        "range_not_satisfiable",
        "not_ready",
        beside={
            200: {"content": {"application/octet-stream": {}}, "description": "The file."},
            206: {
                "content": {"application/octet-stream": {}},
                "description": "The range asked for.",
            },
            304: {"description": "`If-None-Match` names the file's ETag: unchanged."},
            307: {"description": "The bytes are in the object store, at `Location`."},
        },
    ),
)
def download_artifact(
    path: str,
    job_id: JobId,
    request: Request,
    context: Ctx,
    caller: ArtifactsReader,
    range: Annotated[
        str | None, Header(description="One range: `bytes=0-99`, `bytes=100-`, `bytes=-100`.")
    ] = None,
    if_range: Annotated[
        str | None, Header(description="The ETag that the range is meant for.")
    ] = None,
    if_none_match: Annotated[str | None, Header(description="ETags that are known.")] = None,
) -> Response:
    """The bytes of one file. Its ETag is its sha256 in quotes; a broken download is continued
    with `Range` and `If-Range`."""
    _, artifacts = _published(context, caller, job_id)
    artifact = next((x for x in artifacts if x.path == path), None)
    if artifact is None:
        raise ApiError(
            "artifact_not_found",
            f"{job_id} has no artifact {path[:200]!r}; see /jobs/{job_id}/artifacts",
        )
    etag = f'"{artifact.sha256}"'
    headers = {
        "etag": etag,
        "accept-ranges": "bytes",
        "cache-control": "private, immutable, max-age=31536000",
        "x-content-type-options": "nosniff",
    }
    if if_none_match is not None and _names(if_none_match, etag):
        return Response(status_code=304, headers=headers)
    is_head = MARK in request.scope
    # the URL is signed for GET
    url = None if is_head else context.store.presigned_url(artifact.key)
    if url is not None:
        # whoever kept it would find it expired
        return RedirectResponse(url, status_code=307, headers={"cache-control": "no-store"})
    wanted = None
    # a range is of GET alone (RFC 9110, 14.2)
    if not is_head and (if_range is None or if_range.strip() == etag):
        try:
            wanted = parse_range(range, artifact.size_bytes)
        except RangeNotSatisfiable:
            raise ApiError(
                "range_not_satisfiable",
                f"{(range or '')[:80]!r} lies outside of {path}, which has "
                f"{artifact.size_bytes} bytes",
                pointer="Range:",
                headers={"content-range": f"bytes */{artifact.size_bytes}"},
            ) from None
    start, end = (wanted.start, wanted.end) if wanted else (0, artifact.size_bytes)
    headers["content-length"] = str(end - start)
    if wanted:
        headers["content-range"] = f"bytes {start}-{end - 1}/{artifact.size_bytes}"
    chunks = context.store.open_range(artifact.key, start, end)
    return ByteStream(chunks, 206 if wanted else 200, headers, artifact.content_type)


def _published(context: Context, caller: Caller, job_id: str) -> tuple[Job, list[Artifact]]:
    with context.database.read() as connection:
        job = repository.get(connection, job_id, caller.sees)
        if job.state is not State.SUCCEEDED:
            has_ended = job.state in TERMINAL
            raise ApiError(
                "job_not_finished",
                f"{job_id} has ended as {job.state}, and made no artifacts"
                if has_ended
                else f"{job_id} is {job.state}; there are artifacts once it has succeeded",
                value=job.state,
                legal="succeeded",
            )
        return job, sorted(repository.artifacts_of(connection, job_id), key=lambda x: x.path)


def _names(if_none_match: str, etag: str) -> bool:
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return "*" in tags or etag in tags
