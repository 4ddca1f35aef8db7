"""What a job looks like over HTTP."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict
from starlette.responses import Response

from jobs.job import Job
from jobs.states import State

EXAMPLE_ID = "job_019ab6f2-6c1d-7f04-8a53-c2f1d09e7b44"

EXAMPLE_JOB: JsonDict = {
    "id": EXAMPLE_ID,
    "type": "quantize",
    "state": "running",
    "phase": "quantizing",
    "attempt": 1,
    "event_seq": 14,
    "progress": {"done": 12, "total": 30, "unit": "block", "percent": 46.0, "eta_seconds": 171.0},
    "error": None,
    "last_loss": None,
    "created_at": "2026-11-24T10:00:00Z",
    "started_at": "2026-11-24T10:00:01Z",
    "finished_at": None,
    "priority": 0,
    "device_class": "any",
    "max_pending_s": None,
    "max_runtime_s": None,
    "retry_of": None,
    "waits_for": None,
    "made_for": None,
    "labels": {"team": "search"},
    "metadata": {},
    "input": {
        "type": "quantize",
        "model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "revision": "12fd25f77366fa6b3b4b768ec3050bf629380bac",
        "bits": 2,
        "group_size": 64,
        "method": "apiq-bw",
        "recipe": "fast",
        "rank": 8,
    },
    "metrics": {},
    "urls": {
        "self": f"/jobs/{EXAMPLE_ID}",
        "events": f"/jobs/{EXAMPLE_ID}/events",
        "logs": f"/jobs/{EXAMPLE_ID}/logs",
        "artifacts": f"/jobs/{EXAMPLE_ID}/artifacts",
        "cancel": f"/jobs/{EXAMPLE_ID}/cancel",
        "retry": f"/jobs/{EXAMPLE_ID}/retry",
    },
}


class Progress(BaseModel):
    """How far it is. Null while it is queued."""

    model_config = ConfigDict(extra="allow")

    done: int | float
    total: int | float
    unit: str = Field(
        description="`byte` of a download, then `block`, which counts each block when it is "
        "quantized and again when it is evaluated, or `step` of finetuning.",
        examples=["block"],
    )
    percent: float = Field(
        description="Of the time that the job takes by the estimate, so not done / total; of a "
        "download or of finetuning: of its bytes or steps.",
        examples=[46.0],
    )
    eta_seconds: float | None = Field(None, description="Seconds to go; null while unknown.")


class JobError(BaseModel):
    """Why a job failed."""

    model_config = ConfigDict(extra="allow")

    code: str = Field(description="Stable and machine readable.", examples=["too_little_text"])
    message: str
    param: str | None = Field(None, description="The field of `input` at fault.")
    fault: str = Field(description="`user`, `service` or `infra`.")
    retryable: bool = Field(description="Whether the same job could succeed later.")


class Loss(JobError):
    """Why a queued job is tried again: what the machines failed at, and how long it pauses."""

    block: int = Field(description="The first block or step that is not stored yet.")
    losses: int = Field(description="How often in a row; too often fails the job.")
    pause_seconds: float


class Urls(BaseModel):
    """Where the rest is."""

    self: str
    events: str
    logs: str
    artifacts: str
    cancel: str
    retry: str


class JobView(BaseModel):
    """A job."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_JOB]})

    id: str = Field(description="`job_` and a UUIDv7.")
    type: str = Field(description="`quantize` or `finetune`.")
    state: State = Field(description="Where it is in its life; the last three are final.")
    phase: str | None = Field(
        description="What a running job is doing: downloading, calibrating, planning, quantizing, "
        "polishing, preparing, training, evaluating, packaging or uploading."
    )
    attempt: int = Field(description="How often a worker has taken it up.")
    event_seq: int = Field(description="Of its latest event; grows whenever the job changes.")
    progress: Progress | None
    error: JobError | None
    last_loss: Loss | None = Field(
        description="Of a queued job whose latest attempt the machines failed; null once it runs "
        "again."
    )
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    priority: int
    device_class: str = Field(description="Which workers may run it: any, cpu or cuda.")
    max_pending_s: int | None
    max_runtime_s: int | None
    retry_of: str | None = Field(description="The job that this one repeats.")
    waits_for: str | None = Field(
        description="The job that must succeed before this one may run; null once it has ended."
    )
    made_for: str | None = Field(
        description="The finetune job whose request asked for this one too, to train on it."
    )
    labels: dict[str, str]
    metadata: dict[str, Any]
    input: dict[str, Any] = Field(
        description="The request as it was accepted: every default filled in, the revision pinned."
    )
    metrics: dict[str, Any] = Field(description="Headline figures of the report, once succeeded.")
    urls: Urls


class JobPage(BaseModel):
    """Newest first."""

    jobs: list[JobView]
    next: str | None = Field(description="`after` of the next page; null on the last one.")


def view(job: Job) -> JobView:
    base = f"/jobs/{job.id}"
    return JobView(
        **{
            name: getattr(job, name)
            for name in JobView.model_fields
            if name not in ("urls", "metrics", "metadata", "labels")
        },
        labels=dict(job.labels or {}),
        metadata=dict(job.metadata or {}),
        metrics=dict(job.metrics or {}),
        urls=Urls(
            self=base,
            events=f"{base}/events",
            logs=f"{base}/logs",
            artifacts=f"{base}/artifacts",
            cancel=f"{base}/cancel",
            retry=f"{base}/retry",
        ),
    )


def ready(
    answer: BaseModel, status_code: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """What FastAPI would make of `answer`, without its second look at every field."""
    return Response(answer.model_dump_json(), status_code, headers, "application/json")
