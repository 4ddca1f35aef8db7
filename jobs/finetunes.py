"""What a finetune job is accepted on: its base and its dataset, as they are in that moment."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from apiq_core.config import PER_CHANNEL
from apiq_core.errors import ApiQError, UserError
from apiq_core.inspect import ModelFacts
from jobs import datasets, models, repository
from jobs.errors import DatasetNotFound, JobNotFound
from jobs.requests import FinetuneRequest
from jobs.settings import Settings
from jobs.states import State

MANIFEST = "manifest.json"  # of a job's artifacts; names the sha256 of every other


def resolve_base(request: FinetuneRequest, settings: Settings) -> FinetuneRequest:
    """The request with the revision of its model pinned. May ask the hub.

    Raises `UserError` where the model is unknown or the config does not fit it.
    """
    if request.base_job is not None:
        if request.revision is not None:
            raise UserError(
                "illegal_revision",
                f"revision is {request.revision!r}, but base is a job; legal: no revision",
                param="revision",
                value=request.revision,
            )
        return request
    if request.method != "lora":
        raise _illegal_base(request, "a model, whose weights are in no groups of integers")
    try:
        located = models.locate(request.base, request.revision, settings, request.hub_token)
        facts = models.inspect(located)
    except ApiQError as error:
        if error.param == "model":
            error.param = "base"
        raise
    _check_fit(request, facts)
    return request.model_copy(update={"revision": located.revision})


def check(connection: Connection, request: FinetuneRequest, owner: str) -> dict[str, Any]:
    """What the input says beside the request; raises `UserError` for what cannot be read.

    Called in the transaction that accepts the job: neither base nor dataset is deleted before
    its end.
    """
    try:
        dataset = datasets.lock(connection, request.dataset, owner)
    except DatasetNotFound:
        raise UserError(
            "unknown_dataset",
            f"there is no dataset {request.dataset}",
            param="dataset",
            value=request.dataset,
            legal="a dataset of GET /datasets",
        ) from None
    pinned: dict[str, Any] = {"model": request.base, "dataset_kind": dataset.kind}
    if request.base_job is not None:
        pinned |= _check_base_job(connection, request, request.base_job, owner)
    return pinned


def _check_base_job(
    connection: Connection, request: FinetuneRequest, job_id: str, owner: str
) -> dict[str, Any]:
    try:
        job = repository.lock(connection, job_id, owner)
    except JobNotFound:
        raise UserError(
            "base_not_found",
            f"base is {job_id}; there is no such job",
            param="base",
            value=job_id,
            legal="a quantize job of GET /jobs?state=succeeded",
        ) from None
    if job.type != "quantize" or job.state != State.SUCCEEDED:
        raise UserError(
            "base_not_ready",
            f"base is {job_id}, a {job.type} job that is {job.state}; legal: a quantize job that "
            "has succeeded",
            param="base",
            value=job_id,
        )
    files = repository.artifacts_of(connection, job_id)
    has_adapter = any(file.path.startswith("adapter/") for file in files)
    _check_method(request, job.input, has_adapter=has_adapter)
    (manifest,) = [file for file in files if file.path == MANIFEST]
    return {"model": job.input["model"], "base_manifest_sha256": manifest.sha256}


def _check_method(request: FinetuneRequest, base: Mapping[str, Any], *, has_adapter: bool) -> None:
    """Whether the method can train what a quantize job of this input has published."""
    if request.method == "lora":
        return
    if base["formats"] == ["dense"]:
        raise _illegal_base(request, "a job that publishes dense weights, no integers")
    if request.method == "l4q" and has_adapter and base["adapter"] != "lora":
        raise _illegal_base(request, f"a job with an adapter {base['adapter']}")
    if request.method == "qa-lora" and has_adapter:
        raise _illegal_base(request, "a job with an adapter")
    if request.method == "qa-lora" and base["group_size"] == PER_CHANNEL:
        raise _illegal_base(request, "a job with group_size -1: whole rows, no groups")


def _illegal_base(request: FinetuneRequest, what: str) -> UserError:
    legal = {
        "l4q": "a quantize job in the format compressed-tensors, with adapter lora or none",
        "qa-lora": "a quantize job of rank 0 in the format compressed-tensors, with a group_size "
        "of 32, 64 or 128",
    }[request.method]
    return UserError(
        "illegal_base",
        f"base is {request.base}, {what}; legal for method {request.method}: {legal}",
        param="base",
        value=request.base,
        legal=legal,
    )


def _check_fit(request: FinetuneRequest, facts: ModelFacts) -> None:
    if request.max_length > facts.max_length:
        raise UserError(
            "length_exceeds_context",
            f"max_length is {request.max_length}; the context of {request.base} has "
            f"{facts.max_length} tokens",
            param="max_length",
            value=request.max_length,
            legal={"at_most": facts.max_length},
        )
    narrowest = min(min(layer.d_in, layer.d_out) for layer in facts.linears)
    if request.rank is not None and request.rank > narrowest:
        raise UserError(
            "rank_too_large",
            f"rank is {request.rank}; the narrowest layer of {request.base} has {narrowest} "
            "channels",
            param="rank",
            value=request.rank,
            legal={"at_most": narrowest},
        )
