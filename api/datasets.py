"""Texts that are uploaded to calibrate on or to be measured on."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from api.auth import Caller, JobsReader, JobsWriter
from api.context import Ctx
from api.ids import DatasetId
from api.limits import DRAIN_BYTES
from api.problems import ApiError, keyed
from apiq_core.errors import UserError
from jobs import datasets
from jobs.datasets import Dataset

router = APIRouter(tags=["datasets"])

MAX_NAME_CHARACTERS = 200


class DatasetView(BaseModel):
    """An uploaded text. Use it as `calibration.source`: `dataset:` and its id."""

    id: str = Field(examples=["ds_019ab6f2-7a4e-7c31-9d5e-0f3b8a6c2d11"])
    name: str | None
    kind: str = Field(description="`text`.")
    size_bytes: int
    characters: int
    sha256: str
    created_at: datetime


class DatasetList(BaseModel):
    datasets: list[DatasetView]


def _view(dataset: Dataset) -> DatasetView:
    return DatasetView(**{name: getattr(dataset, name) for name in DatasetView.model_fields})


@router.post(
    "/datasets",
    status_code=201,
    summary="Upload a text",
    responses=keyed(
        "dataset_too_large",
        "unsupported_media_type",
        "empty_dataset",
        "not_utf8",
        "invalid_request",
        "quota_exceeded",
        "disk_full",
    ),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "text/plain": {"schema": {"type": "string"}, "example": "Plain UTF-8 text ..."}
            },
        }
    },
)
async def upload_dataset(
    request: Request,
    response: Response,
    context: Ctx,
    caller: JobsWriter,
    name: Annotated[
        str | None, Query(max_length=MAX_NAME_CHARACTERS, description="What to call it.")
    ] = None,
) -> DatasetView:
    """The body is the text itself, in UTF-8: `curl --data-binary @my.txt -H 'Content-Type:
    text/plain'`. It is checked and stored as it arrives."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "text/plain":
        raise ApiError(
            "unsupported_media_type",
            f"content-type is {media_type!r}; legal: text/plain (in UTF-8)",
            pointer="Content-Type:",
            value=media_type,
            legal="text/plain",
        )
    if name is not None:
        _check_name(name)
    limit_bytes = context.settings.max_dataset_bytes
    with datasets.TextUpload(context.settings, limit_bytes) as upload:
        await _receive(request, upload)
        dataset = await run_in_threadpool(_store, context, caller, upload, name)
    response.headers["location"] = f"/datasets/{dataset.id}"
    return _view(dataset)


async def _receive(request: Request, upload: datasets.TextUpload) -> None:
    """Check and keep the body. What is refused is still read up to a bound: a client that is
    writing would otherwise meet a reset connection instead of the answer."""
    refusal: UserError | None = None
    drained_bytes = 0
    declared = request.headers.get("content-length", "")
    try:
        upload.expect(int(declared[:20]) if declared.isdigit() else 0)
    except UserError as error:
        refusal = error
    async for chunk in request.stream():
        if refusal is None:
            try:
                await run_in_threadpool(upload.write, chunk)
            except UserError as error:
                refusal = error
        else:
            drained_bytes += len(chunk)
            if drained_bytes > DRAIN_BYTES:
                break
    if refusal is not None:
        raise refusal


def _store(context: Ctx, caller: Caller, upload: datasets.TextUpload, name: str | None) -> Dataset:
    dataset = upload.finish(name, caller.owner)
    with context.database.begin() as connection:
        datasets.reserve(connection, dataset, context.settings)
    try:
        upload.put(context.store, dataset)
    except BaseException:
        with context.database.begin() as connection:
            datasets.abandon(connection, dataset)
        raise
    with context.database.begin() as connection:
        datasets.confirm(connection, dataset)
    return dataset


@router.get("/datasets", summary="List the uploaded texts", responses=keyed())
def list_datasets(context: Ctx, caller: JobsReader) -> DatasetList:
    """Newest first."""
    with context.database.read() as connection:
        found = datasets.list_all(connection, caller.sees)
    return DatasetList(datasets=[_view(dataset) for dataset in found])


@router.get(
    "/datasets/{dataset_id}",
    summary="Show a text's facts",
    responses=keyed("dataset_not_found"),
)
def get_dataset(dataset_id: DatasetId, context: Ctx, caller: JobsReader) -> DatasetView:
    """Its size, length and checksum; the text itself is not shown."""
    with context.database.read() as connection:
        return _view(datasets.get(connection, dataset_id, caller.sees))


@router.delete(
    "/datasets/{dataset_id}",
    status_code=204,
    summary="Delete a text",
    responses=keyed("dataset_not_found", "dataset_in_use"),
)
def delete_dataset(dataset_id: DatasetId, context: Ctx, caller: JobsWriter) -> None:
    """Refused while a job that has not ended uses it."""
    with context.database.begin() as connection:
        datasets.delete(connection, dataset_id, caller.sees)


def _check_name(name: str) -> None:
    if not name.isprintable() or not name.strip():
        raise ApiError(
            "invalid_request",
            f"name is {name[:80]!r}; legal: printable characters",
            pointer="?name",
        )
