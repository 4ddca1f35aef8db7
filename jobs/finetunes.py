"""What a finetune job is accepted on: its base and its dataset, as they are in that moment."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection

from apiq_core.config import PER_CHANNEL, QuantizeConfig
from apiq_core.errors import ApiQError, UserError
from apiq_core.finetune.config import OF_A_NEW_ADAPTER
from apiq_core.finetune.data.too_little_data import too_little_data
from apiq_core.inspect import ModelFacts
from jobs import datasets, models, repository
from jobs.datasets import Dataset
from jobs.datasets.files import TEXT
from jobs.errors import DatasetNotFound, JobNotFound
from jobs.job import Job
from jobs.requests import WIDTH, FinetuneRequest, QuantizeRequest
from jobs.settings import Settings
from jobs.states import State

READY = (State.QUEUED, State.RUNNING, State.SUCCEEDED)  # a base that has not ended is waited for
ADAPTER = "adapter/"  # where a quantize job's artifacts have one
OF_BOTH = (*WIDTH, "revision", "hub_token")  # fields that are called alike in both requests


def check_no_revision(request: FinetuneRequest) -> None:
    """Of a base that is a job."""
    if request.revision is not None:
        raise UserError(
            "illegal_revision",
            f"revision is {request.revision!r}, but base is a job; legal: no revision",
            param="revision",
            value=request.revision,
        )


def resolve_model(
    request: FinetuneRequest, settings: Settings
) -> tuple[FinetuneRequest, dict[str, Any]]:
    """The request with the revision of its model pinned, which is trained as it is, and what the
    job's input says of that model. May ask the hub.

    Raises `UserError` where the model is unknown or the config does not fit it.
    """
    if request.method == "qa-lora" or (request.method == "l4q" and request.bits is None):
        raise _illegal_base(request, "a model, whose weights are in no groups of integers")
    with naming_base():
        located = models.locate(request.base, request.revision, settings, request.hub_token)
        facts = models.inspect(located)
        pinned = {"has_chat_template": models.has_chat_template(located)}
    _check_length(request, facts.max_length)
    _check_rank(request, facts.narrowest_channels)
    return request.model_copy(update={"revision": located.revision}), pinned


def check_made(request: FinetuneRequest, base: QuantizeRequest, facts: ModelFacts) -> None:
    """Whether training fits what `base`, a request that is resolved, will make of the model."""
    config = base.config()
    _check_length(request, facts.max_length)
    _check_base(request, config, has_adapter=config.may_have_adapter())
    _check_rank(request, facts.narrowest_channels)


def lock_datasets(
    connection: Connection, request: FinetuneRequest, owner: str
) -> dict[str, Dataset]:
    """`dataset` and, if it is given, `validation`, which nobody deletes before this transaction
    ends.

    Raises `UserError` where one is unknown, they are not of one kind, or one is to be divided that
    has a single row, or surely has a single window.
    """
    wanted = {"dataset": request.dataset}
    if request.validation is not None:
        wanted["validation"] = request.validation
    found: dict[str, Dataset] = {}
    for param, dataset_id in wanted.items():
        try:
            found[param] = datasets.lock(connection, dataset_id, owner)
        except DatasetNotFound:
            raise UserError(
                "unknown_dataset",
                f"there is no dataset {dataset_id}",
                param=param,
                value=dataset_id,
                legal="a dataset of GET /datasets",
            ) from None
    kind = found["dataset"].kind
    if "validation" not in found:
        _check_can_be_divided(found["dataset"], request.max_length)
    if "validation" in found and found["validation"].kind != kind:
        raise UserError(
            "wrong_dataset_kind",
            f"validation is {request.validation}, a dataset of kind {found['validation'].kind}; "
            f"legal: one of kind {kind}, as dataset",
            param="validation",
            value=request.validation,
            legal=f"a dataset of kind {kind}",
        )
    return found


def check_chats(found: Mapping[str, Dataset], model: str, has_chat_template: bool | None) -> None:
    """Refuse chats for a model that is known to have no template for them."""
    for param, dataset in found.items():
        if dataset.chats and has_chat_template is False:
            raise UserError(
                "no_chat_template",
                f"{param} is {dataset.id}, of whose rows {dataset.chats} are chats (messages), and "
                f"{model} has no chat template; legal: rows with prompt and completion, or a "
                "model with a template",
                param=param,
                value=dataset.id,
            )


def _check_can_be_divided(dataset: Dataset, max_length: int) -> None:
    """A token is at least a byte, but for one that may stand before a text."""
    if dataset.rows is not None and dataset.rows < 2:
        raise too_little_data(dataset.rows)
    if dataset.kind == TEXT and dataset.size_bytes < max_length:
        raise UserError(
            "too_little_data",
            f"dataset is {dataset.id}, a text of {dataset.size_bytes} bytes, no more than one "
            f"window of {max_length} tokens (max_length); legal: two windows or more, so that one "
            "can be held out, a smaller max_length, or a validation set of its own",
            param="dataset",
            value=1,
            legal={"at_least": 2},
        )


def lock_base(connection: Connection, request: FinetuneRequest, base_id: str, owner: str) -> Job:
    """The job that is trained on, which neither ends nor is deleted before this transaction ends.

    Raises `UserError` where it cannot be trained on.
    """
    try:
        job = repository.lock(connection, base_id, owner)
    except JobNotFound:
        raise no_such_base(base_id) from None
    check_is_quantize(job)
    if job.state not in READY:
        raise UserError(
            "base_not_ready",
            f"base is {base_id}, a job that is {job.state}; legal: a quantize job that has "
            "succeeded, or that is queued or running",
            param="base",
            value=base_id,
        )
    config = QuantizeRequest.from_input(job.input).config()
    has_adapter = config.may_have_adapter()
    if job.state == State.SUCCEEDED:  # a budget may have come to rank 0 everywhere
        has_adapter = any(
            file.path.startswith(ADAPTER) for file in repository.artifacts_of(connection, job.id)
        )
    # a job from before they were pinned is checked where it is trained on
    if (context_length := job.input.get("context_length")) is not None:
        _check_length(request, context_length)
    _check_base(request, config, has_adapter=has_adapter)
    if (narrowest_channels := job.input.get("narrowest_channels")) is not None:
        _check_rank(request, narrowest_channels)
    return job


def no_such_base(base_id: str) -> UserError:
    return UserError(
        "base_not_found",
        f"base is {base_id}; there is no such job",
        param="base",
        value=base_id,
        legal="a quantize job of GET /jobs",
    )


def check_is_quantize(job: Job) -> None:
    """Raises `UserError(illegal_base)`."""
    if job.type != "quantize":
        raise UserError(
            "illegal_base",
            f"base is {job.id}, a {job.type} job; legal: a quantize job",
            param="base",
            value=job.id,
            legal="a quantize job of GET /jobs?type=quantize",
        )


@contextmanager
def naming_base(options: str = "") -> Iterator[None]:
    """Errors name fields of a finetune request: `base` for `model`, `OPTIONS.rank` for `rank`."""
    try:
        yield
    except ApiQError as error:
        if error.param == "model":
            error.param = "base"
        elif options and error.param is not None and error.param not in OF_BOTH:
            error.param = f"{options}.{error.param}"
            error.message = f"{options}: {error.message}"
        raise


def _check_length(request: FinetuneRequest, context_length: int) -> None:
    if request.max_length > context_length:
        raise UserError(
            "length_exceeds_context",
            f"max_length is {request.max_length}, more than the context of {request.base}; "
            f"legal: at most {context_length} tokens",
            param="max_length",
            value=request.max_length,
            legal={"at_most": context_length},
        )


def _check_base(request: FinetuneRequest, base: QuantizeConfig, *, has_adapter: bool) -> None:
    """Whether the method can train what a quantize job of this config publishes."""
    for name, code in OF_A_NEW_ADAPTER.items():
        value = getattr(request, name)
        if value is not None and has_adapter:
            raise UserError(
                code,
                f"{name} is {value}, but the base has an adapter, of method {base.method}, which "
                f"is trained as it is; legal: no {name}{_of_the_first_step(request, name)}",
                param=name,
                value=value,
            )
    if request.method == "lora":
        return
    if base.formats == ["dense"]:
        raise _illegal_base(request, "which publishes dense weights, no integers")
    if request.method == "l4q" and has_adapter and base.adapter != "lora":
        raise _illegal_base(request, f"which has an adapter {base.adapter}")
    if request.method == "qa-lora" and has_adapter:
        raise _illegal_base(request, "which has an adapter")
    if request.method == "qa-lora" and base.group_size == PER_CHANNEL:
        raise _illegal_base(request, "of group_size -1: whole rows, no groups")


def _of_the_first_step(request: FinetuneRequest, name: str) -> str:
    """Where a chain says it of the adapter that quantization fits."""
    return f", or quantize.{name}" if request.base_job is None else ""


def _illegal_base(request: FinetuneRequest, what: str) -> UserError:
    legal = {
        "l4q": "a quantize job in the format compressed-tensors, with adapter lora or none; or a "
        "model with bits",
        "qa-lora": "a quantize job without adapter (rank 0) in the format compressed-tensors, with "
        "a group_size of 32, 64 or 128; or a model with bits",
    }[request.method]
    return UserError(
        "illegal_base",
        f"base is {request.base}, {what}; legal for method {request.method}: {legal}",
        param="base",
        value=request.base,
        legal=legal,
    )


def _check_rank(request: FinetuneRequest, narrowest_channels: int) -> None:
    if request.rank is not None and request.rank > narrowest_channels:
        raise UserError(
            "rank_too_large",
            f"rank is {request.rank}; the narrowest layer of {request.base} has "
            f"{narrowest_channels} channels",
            param="rank",
            value=request.rank,
            legal={"at_most": narrowest_channels},
        )
