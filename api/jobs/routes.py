"""Submit, show, list, cancel, repeat and delete jobs."""

from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Depends, Header, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag
from starlette.concurrency import run_in_threadpool

from api.auth import JobsReader, JobsWriter
from api.context import Ctx, context_of
from api.ids import JobId
from api.jobs.views import JobPage, JobView, ready, view
from api.legal import IDEMPOTENCY_KEY
from api.problems import ApiError, keyed
from api.validation import quoted
from jobs import intake, models, repository, texts
from jobs.errors import InvalidCursor
from jobs.intake import Order, RequestName
from jobs.requests import (
    LABEL_COUNT,
    LABEL_KEY,
    LEGAL_LABEL_KEY,
    FinetuneRequest,
    HubToken,
    QuantizeRequest,
)
from jobs.states import State

router = APIRouter(tags=["jobs"])

MAX_WAIT_S = 60

SUBMIT_CODES = (
    "malformed_json",
    "body_too_large",
    "unsupported_media_type",
    "invalid_request",
    # the fields
    "illegal_method",
    "illegal_bits",
    "illegal_group_size",
    "illegal_format",
    "illegal_rank",
    "illegal_adapter",
    "illegal_recipe",
    "no_adapter",
    "no_gradient_phase",
    "no_rounding",
    "length_exceeds_context",
    "group_size_does_not_divide",
    "layer_not_packable",
    "rank_too_large",
    "budget_too_small",
    # the model
    "illegal_model_id",
    "model_not_found",
    "revision_not_found",
    "model_gated",
    "model_changed",
    "model_outside",
    "missing_config",
    "corrupt_config",
    "missing_tokenizer",
    "missing_weights",
    "missing_file",
    "pickle_weights",
    "corrupt_weights",
    "unsupported_dtype",
    "remote_code",
    "unsupported_architecture",
    "already_quantized",
    # the texts, the rows and the base
    "unknown_source",
    "wrong_dataset_kind",
    "too_little_text",
    "too_little_data",
    "no_chat_template",
    "unknown_dataset",
    "base_not_found",
    "base_not_ready",
    "illegal_base",
    "illegal_revision",
    # the server
    "no_secret_key",
    "idempotency_key_reused",
    "quota_exceeded",
    "hub_unreachable",
    "disk_full",
)

EXAMPLES = {
    "short": {
        "summary": "All defaults",
        "value": {"model": "HuggingFaceTB/SmolLM2-135M-Instruct", "bits": 2},
    },
    "long": {
        "summary": "More asked for",
        "value": {
            "model": "HuggingFaceTB/SmolLM2-135M-Instruct",
            "bits": 3,
            "group_size": 64,
            "recipe": "paper",
            "calibration": {"source": "builtin", "samples": 128, "length": 512},
            "labels": {"team": "search"},
        },
    },
    "finetune": {
        "summary": "Finetune what a job has quantized",
        "value": {
            "type": "finetune",
            "base": "job_019ab6f2-6c1d-7f04-8a53-c2f1d09e7b44",
            "dataset": "ds_019ab6f2-7a4e-7c31-9d5e-0f3b8a6c2d11",
        },
    },
    "chain": {
        "summary": "Quantize a model, then finetune it",
        "value": {
            "type": "finetune",
            "base": "HuggingFaceTB/SmolLM2-135M-Instruct",
            "bits": 2,
            "quantize": {"method": "loftq"},
            "dataset": "ds_019ab6f2-7a4e-7c31-9d5e-0f3b8a6c2d11",
        },
    },
}


def _type_of(body: Any) -> str:
    """Which kind of job a body asks for; without a `type` it is to quantize."""
    kind = (
        body.get("type", "quantize")
        if isinstance(body, dict)
        else getattr(body, "type", "quantize")
    )
    return kind if isinstance(kind, str) else ""


AnyRequest = Annotated[
    Annotated[QuantizeRequest, Tag("quantize")] | Annotated[FinetuneRequest, Tag("finetune")],
    Discriminator(_type_of),
]


async def _is_json(request: Request) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise ApiError(
            "unsupported_media_type",
            f"content-type is {media_type!r}; legal: application/json",
            pointer="Content-Type:",
            value=media_type,
            legal="application/json",
        )


@router.post(
    "/jobs",
    status_code=202,
    summary="Submit a job",
    response_model=JobView,
    dependencies=[Depends(_is_json)],
    responses=keyed(*SUBMIT_CODES),
)
async def submit_job(
    body: Annotated[AnyRequest, Body(openapi_examples=EXAMPLES)],
    http_request: Request,
    caller: JobsWriter,
    idempotency_key: Annotated[
        str | None,
        Header(
            min_length=1,
            max_length=255,
            pattern=IDEMPOTENCY_KEY,
            description="Names this request: sent again with the same body it answers with the "
            "same job instead of making another.",
        ),
    ] = None,
) -> Response:
    """Quantize a model: `model` and `bits` suffice. Or finetune one: `"type": "finetune"`, `base`
    and `dataset` suffice; with `bits` the model `base` is quantized first, by a job of its own
    that the answer `waits_for`. The answer's `input` shows what every other field was resolved to.
    What cannot work is refused here, from the headers of the checkpoint."""
    context = context_of(http_request)
    name = None if idempotency_key is None else RequestName(idempotency_key, body.body_sha256())
    order = Order(body, caller.owner, name)
    if isinstance(body, QuantizeRequest) and models.is_local(
        body.model, body.revision, context.settings
    ):
        if body.calibration.source is None:
            source = texts.known_default_source() or await context.default_source.ask(None)
            calibration = body.calibration.model_copy(update={"source": source})
            order = replace(order, request=body.model_copy(update={"calibration": calibration}))
        job = await context.accepted.ask(order)
    else:  # nobody else waits for the hub
        job = await run_in_threadpool(intake.submit, context.database, order, context.settings)
    context.bell.ring(job)
    return ready(view(job), 202, {"location": f"/jobs/{job.id}"})


@router.get(
    "/jobs/{job_id}",
    summary="Show a job",
    response_model=JobView,
    responses=keyed("job_not_found", "invalid_request"),
)
async def get_job(
    job_id: JobId,
    request: Request,
    caller: JobsReader,
    wait: Annotated[
        float,
        Query(ge=0, le=MAX_WAIT_S, description="Answer when the job changes, or after so many s."),
    ] = 0,
    after: Annotated[
        int | None,
        Query(
            ge=0,
            lt=2**31,
            description="With `wait`: the `event_seq` that is known. A job that has gone on since "
            "is answered at once.",
        ),
    ] = None,
) -> Response:
    """The job as it is now, or after its next change."""
    context = context_of(request)
    wanted = (job_id, caller.sees)
    job = await context.shown.ask(wanted)
    known = job.event_seq if after is None else min(after, job.event_seq)
    is_news = job.event_seq > known or job.is_terminal
    if wait and not is_news and await context.watcher.changed(job_id, known, wait):
        job = await context.shown.ask(wanted)
    return ready(view(job))


@router.get(
    "/jobs",
    summary="List jobs",
    response_model=JobPage,
    responses=keyed("invalid_request"),
    openapi_extra={
        "parameters": [
            {
                "name": "label.KEY",
                "in": "query",
                "schema": {"type": "string"},
                "description": "Only jobs whose label KEY has this value; may repeat with "
                "other keys.",
                "example": "search",
            }
        ]
    },
)
def list_jobs(
    http_request: Request,
    context: Ctx,
    caller: JobsReader,
    state: Annotated[State | None, Query(description="Only jobs in this state.")] = None,
    type: Annotated[
        Literal["quantize", "finetune"] | None, Query(description="Only jobs of this type.")
    ] = None,
    model: Annotated[str | None, Query(description="Only jobs of this model.")] = None,
    after: Annotated[str | None, Query(description="`next` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="Jobs a page.")] = 50,
) -> Response:
    """Newest first, a page at a time."""
    labels = {
        _label_key(name): value
        for name, value in http_request.query_params.items()
        if name.startswith("label.")
    }
    if len(labels) > LABEL_COUNT:
        raise ApiError(
            "invalid_request",
            f"{len(labels)} labels; legal: at most {LABEL_COUNT}",
            pointer="?label.KEY",
        )
    try:
        with context.database.read() as connection:
            jobs, following = repository.list_jobs(
                connection,
                state=state,
                type=type,
                model=model,
                labels=labels,
                owner=caller.sees,
                after=after,
                limit=limit,
            )
    except InvalidCursor as error:
        raise ApiError("invalid_request", error.message, pointer="?after") from None
    return ready(JobPage(jobs=[view(job) for job in jobs], next=following))


def _label_key(name: str) -> str:
    """The KEY of `label.KEY`; no job has a label that is not legal, but SQL would mind it."""
    key = name.removeprefix("label.")
    if LABEL_KEY.fullmatch(key) is None:
        raise ApiError(
            "invalid_request",
            f"label key {quoted(key)}; legal: {LEGAL_LABEL_KEY}",
            pointer=f"?{name[:80]}",
        )
    return key


@router.post(
    "/jobs/{job_id}/cancel",
    status_code=202,
    summary="Cancel a job",
    responses=keyed("job_not_found", "job_already_finished"),
)
def cancel_job(job_id: JobId, context: Ctx, caller: JobsWriter) -> JobView:
    """A queued job is cancelled at once, a running one at its next step. If it waits for a job that
    was made for it, and no other does, that one is cancelled too. To ask twice is no error; a job
    that has succeeded or failed stays as it is."""
    with context.database.begin() as connection:
        return view(repository.request_cancel(connection, job_id, caller.sees))


class Retry(BaseModel):
    """What a retry cannot copy."""

    model_config = ConfigDict(extra="forbid")

    hub_token: HubToken | None = Field(
        None,
        description="For a gated model: a token of the hub, as of `POST /jobs`. That of the old "
        "job is gone.",
    )


@router.post(
    "/jobs/{job_id}/retry",
    status_code=202,
    summary="Repeat a job",
    responses=keyed(
        "job_not_found",
        "job_not_retryable",
        "malformed_json",
        "unknown_source",
        "too_little_data",
        "unknown_dataset",
        "base_not_found",
        "base_not_ready",
        "illegal_base",
        "no_secret_key",
        "invalid_request",
        "quota_exceeded",
    ),
)
def retry_job(
    job_id: JobId, context: Ctx, caller: JobsWriter, response: Response, body: Retry | None = None
) -> JobView:
    """A new job that asks for the same as one that failed or was cancelled; its `retry_of` names
    that one. A finetune job is repeated together with its base, if that has failed or was
    cancelled. The hub token of the old job is gone: a gated model needs it again."""
    with context.database.begin() as connection:
        job = intake.retry(
            connection,
            job_id,
            context.settings,
            owner=caller.sees,
            hub_token=body.hub_token if body else None,
        )
    context.bell.ring(job)
    response.headers["location"] = f"/jobs/{job.id}"
    return view(job)


@router.delete(
    "/jobs/{job_id}",
    status_code=204,
    summary="Delete a job",
    responses=keyed("job_not_found", "job_not_finished", "job_in_use"),
)
def delete_job(job_id: JobId, context: Ctx, caller: JobsWriter) -> None:
    """An ended job, its events and its artifacts. Refused while a finetune job trains on it."""
    with context.database.begin() as connection:
        repository.delete(connection, job_id, caller.sees)
