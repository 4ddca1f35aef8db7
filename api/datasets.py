"""What is uploaded: texts to calibrate on or to be measured on, rows to train on."""

from datetime import datetime
from typing import Annotated, Self

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from api.auth import Caller, JobsReader, JobsWriter
from api.context import Ctx
from api.ids import DatasetId
from api.problems import keyed
from api.uploads import MAX_NAME_CHARACTERS, REQUEST_BODY, check_name, receive
from apiq_core.finetune.rows import Row
from jobs import datasets
from jobs.datasets import Dataset
from jobs.previews import preview
from jobs.uploads import Upload

router = APIRouter(tags=["datasets"])


class DatasetView(BaseModel):
    """What was uploaded. Use a text as `calibration.source`: `dataset:` and its id."""

    id: str = Field(examples=["ds_019ab6f2-7a4e-7c31-9d5e-0f3b8a6c2d11"])
    name: str | None
    kind: str = Field(description="`text`, or `rows` to train on.")
    size_bytes: int
    characters: int
    rows: int | None = Field(description="How many there are; null of a text.")
    duplicates: int | None = Field(
        description="Rows that are word for word one of the first million; null of a text."
    )
    sha256: str
    created_at: datetime


class DatasetList(BaseModel):
    datasets: list[DatasetView]


class SegmentView(BaseModel):
    """A piece of what the model reads."""

    text: str
    learned: bool = Field(description="Whether training on it teaches the model to say it.")
    role: str | None = Field(default=None, description="Who says it, if the row is a chat.")


class RowView(BaseModel):
    """A row as training reads it. The template of a chat belongs to the model: it is added there,
    and a segment is a message here."""

    shape: str = Field(description="`messages`, `prompt`, `instruction`, `question` or `text`.")
    segments: list[SegmentView]

    @classmethod
    def of(cls, row: Row) -> Self:
        said = [
            SegmentView(text=m["content"], learned=m["role"] == "assistant", role=m["role"])
            for m in row.messages
        ]
        read = [SegmentView(text=s.text, learned=s.learned) for s in row.segments]
        return cls(shape=row.shape, segments=said or read)


class Preview(BaseModel):
    """The first three rows; a text is one, of its first 1,000 characters."""

    rows: list[RowView]


def _view(dataset: Dataset) -> DatasetView:
    return DatasetView(**{name: getattr(dataset, name) for name in DatasetView.model_fields})


@router.post(
    "/datasets",
    status_code=201,
    summary="Upload a text, or rows",
    responses=keyed(
        "bad_request",
        "dataset_too_large",
        "unsupported_media_type",
        "empty_dataset",
        "not_utf8",
        "bad_rows",
        "invalid_request",
        "quota_exceeded",
        "disk_full",
    ),
    openapi_extra={"requestBody": REQUEST_BODY},
)
async def upload_dataset(
    request: Request,
    response: Response,
    context: Ctx,
    caller: JobsWriter,
    name: Annotated[
        str | None,
        Query(
            max_length=MAX_NAME_CHARACTERS,
            description="What to call it. Default: the name of the file, if a form has one.",
        ),
    ] = None,
) -> DatasetView:
    """The body is the file itself, in UTF-8: a text (`curl --data-binary @my.txt -H 'Content-Type:
    text/plain'`) or rows, a line of JSON each (`application/jsonl`); or it is a form with that
    file (`curl -F file=@my.jsonl`). It is checked and stored as it arrives."""
    if name is not None:
        check_name(name, "?name")
    with Upload(context.settings, context.settings.max_dataset_bytes) as upload:
        file_name = await receive(request, upload)
        dataset = await run_in_threadpool(_store, context, caller, upload, name or file_name)
    response.headers["location"] = f"/datasets/{dataset.id}"
    return _view(dataset)


def _store(context: Ctx, caller: Caller, upload: Upload, name: str | None) -> Dataset:
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


@router.get("/datasets", summary="List what was uploaded", responses=keyed())
def list_datasets(context: Ctx, caller: JobsReader) -> DatasetList:
    """Newest first."""
    with context.database.read() as connection:
        found = datasets.list_all(connection, caller.sees)
    return DatasetList(datasets=[_view(dataset) for dataset in found])


@router.get(
    "/datasets/{dataset_id}",
    summary="Show a dataset's facts",
    responses=keyed("dataset_not_found"),
)
def get_dataset(dataset_id: DatasetId, context: Ctx, caller: JobsReader) -> DatasetView:
    """Its size, length and checksum. How it begins: `/datasets/{dataset_id}/preview`."""
    with context.database.read() as connection:
        return _view(datasets.get(connection, dataset_id, caller.sees))


@router.get(
    "/datasets/{dataset_id}/preview",
    summary="Show how a dataset begins",
    response_model_exclude_none=True,
    responses=keyed("dataset_not_found", "artifact_not_found", "not_ready"),
)
def preview_dataset(dataset_id: DatasetId, context: Ctx, caller: JobsReader) -> Preview:
    """Its first rows as training reads them, and what of them is learned."""
    with context.database.read() as connection:
        dataset = datasets.get(connection, dataset_id, caller.sees)
    return Preview(rows=[RowView.of(row) for row in preview(context.store, dataset)])


@router.delete(
    "/datasets/{dataset_id}",
    status_code=204,
    summary="Delete a dataset",
    responses=keyed("dataset_not_found", "dataset_in_use"),
)
def delete_dataset(dataset_id: DatasetId, context: Ctx, caller: JobsWriter) -> None:
    """Refused while a job that has not ended uses it."""
    with context.database.begin() as connection:
        datasets.delete(connection, dataset_id, caller.sees)
