"""What is uploaded: texts to calibrate on or to be measured on, rows to train on."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from api.auth import Caller, JobsReader, JobsWriter
from api.context import Context, Ctx
from api.datasets.body import (
    JSON,
    MAX_NAME_CHARACTERS,
    REQUEST_BODY,
    check_name,
    media_type_of,
    read_hub_dataset,
    receive,
)
from api.datasets.views import DatasetPage, DatasetView, Preview, RowView, TokenCountsView, view
from api.ids import DatasetId
from api.problems import ApiError, keyed
from apiq_core.errors import ApiQError
from apiq_core.finetune.config import FinetuneConfig
from apiq_core.finetune.data.rows import Row
from jobs import datasets
from jobs.datasets import Dataset, from_hub
from jobs.datasets.hub_splits import HubDataset
from jobs.datasets.previews import preview
from jobs.datasets.token_previews import TokenPreview, token_preview
from jobs.datasets.upload import Upload
from jobs.errors import InvalidCursor
from jobs.requests import Base

router = APIRouter(tags=["datasets"])

MAX_LENGTH = FinetuneConfig.model_fields["max_length"]
MaxLength = Annotated[
    int,
    *MAX_LENGTH.metadata,
    Query(description="With `base`: as of a finetune job; rows of more tokens are counted."),
]


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
        "malformed_json",
        "hub_dataset_not_found",
        "hub_dataset_gated",
        "revision_not_found",
        "hub_split_not_found",
        "hub_files_unsupported",
        "quota_exceeded",
        "hub_unreachable",
        "not_ready",
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
    file (`curl -F file=@my.jsonl`). It is checked and stored as it arrives. Or it is JSON that
    names a dataset of the hub, whose files of rows or text are fetched before this answers."""
    if name is not None:
        check_name(name, "?name")
    with Upload(context.settings, context.settings.max_dataset_bytes) as upload:
        if media_type_of(request) == JSON:
            asked = await read_hub_dataset(request)
            async with context.turns:
                dataset = await run_in_threadpool(_fetch, context, caller, upload, name, asked)
        else:
            file_name = await receive(request, upload)
            dataset = await run_in_threadpool(_store, context, caller, upload, name or file_name)
    response.headers["location"] = f"/datasets/{dataset.id}"
    return view(dataset)


def _fetch(
    context: Ctx, caller: Caller, upload: Upload, name: str | None, asked: HubDataset
) -> Dataset:
    found = from_hub.find(asked, context.settings)
    from_hub.fetch(found, upload)
    return _store(context, caller, upload, name or f"{asked.hub} {asked.split}", found.origin)


def _store(
    context: Ctx,
    caller: Caller,
    upload: Upload,
    name: str | None,
    origin: dict[str, Any] | None = None,
) -> Dataset:
    dataset = upload.finish(name, caller.owner, origin)
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


@router.get("/datasets", summary="List what was uploaded", responses=keyed("invalid_request"))
def list_datasets(
    context: Ctx,
    caller: JobsReader,
    after: Annotated[str | None, Query(description="`next` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="Datasets a page.")] = 50,
) -> DatasetPage:
    """Newest first, a page at a time."""
    try:
        with context.database.read() as connection:
            found, following = datasets.list_page(connection, caller.sees, after=after, limit=limit)
    except InvalidCursor as error:
        raise ApiError("invalid_request", error.message, pointer="?after") from None
    return DatasetPage(datasets=[view(dataset) for dataset in found], next=following)


@router.get(
    "/datasets/{dataset_id}",
    summary="Show a dataset's facts",
    responses=keyed("dataset_not_found"),
)
def get_dataset(dataset_id: DatasetId, context: Ctx, caller: JobsReader) -> DatasetView:
    """Its size, length and checksum. How it begins: `/datasets/{dataset_id}/preview`."""
    with context.database.read() as connection:
        return view(datasets.get(connection, dataset_id, caller.sees))


@router.get(
    "/datasets/{dataset_id}/preview",
    summary="Show how a dataset begins",
    response_model_exclude_none=True,
    responses=keyed(
        "dataset_not_found",
        "artifact_not_found",
        "base_not_found",
        "base_not_ready",
        "base_not_finished",
        "illegal_base",
        "model_not_found",
        "missing_tokenizer",
        "tokenizer_too_large",
        "tokenizer_fails",
        "no_chat_template",
        "unusable_chat_template",
        "chat_template_refuses",
        "hub_unreachable",
        "not_ready",
    ),
)
async def preview_dataset(
    dataset_id: DatasetId,
    context: Ctx,
    caller: JobsReader,
    base: Annotated[
        Base | None,
        Query(
            description="A `base` as of a finetune job: `job_...`, or a model id. Its tokenizer "
            "and chat template are used; a gated model needs the token of the server.",
        ),
    ] = None,
    max_length: MaxLength = MAX_LENGTH.default,
) -> Preview:
    """Its first rows as training reads them, and what of them is learned. With `base` in the
    tokens of that model, and how many of them there are."""
    dataset, rows = await run_in_threadpool(_read, context, caller, dataset_id)
    if base is None:
        return Preview(rows=[RowView.of(row) for row in rows])
    async with context.turns:
        found = await run_in_threadpool(_read_as, context, caller, dataset, base, max_length)
    return Preview(
        rows=[RowView.of(row, read) for row, read in zip(rows, found.rows, strict=True)],
        counts=TokenCountsView(
            **found.counts, counted_bytes=found.counted_bytes, is_partial=found.is_partial
        ),
    )


def _read(context: Context, caller: Caller, dataset_id: str) -> tuple[Dataset, list[Row]]:
    with context.database.read() as connection:
        dataset = datasets.get(connection, dataset_id, caller.sees)
    return dataset, preview(context.store, dataset)


def _read_as(
    context: Context, caller: Caller, dataset: Dataset, base: str, max_length: int
) -> TokenPreview:
    database, store, settings = context.database, context.store, context.settings
    try:
        return token_preview(dataset, base, max_length, caller.sees, database, store, settings)
    except ApiQError as error:
        raise ApiError(
            error.code, error.message, pointer="?base", value=error.value, legal=error.legal
        ) from None


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
