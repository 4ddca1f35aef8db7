"""From what was asked to a job: every default filled in, then accepted in one transaction."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import SecretStr
from sqlalchemy import Connection, select
from sqlalchemy.exc import IntegrityError

from apiq_core.errors import UserError
from apiq_core.inspect import ModelFacts
from apiq_core.resolve import resolve
from apiq_core.too_little_text import too_little_text
from jobs import chains, datasets, finetunes, models, quotas, repository, secrets, texts
from jobs.database import Database
from jobs.datasets.files import SOURCE, TEXT
from jobs.errors import (
    DatasetNotFound,
    IdempotencyKeyReused,
    JobNotFound,
    JobNotRetryable,
    QuotaExceeded,
)
from jobs.job import Job
from jobs.repository import NewJob
from jobs.requests import JobFields, JobRequest, QuantizeRequest, request_of
from jobs.rows import job_from_row
from jobs.schema import jobs
from jobs.settings import Settings
from jobs.states import State

RETRYABLE = (State.FAILED, State.CANCELLED)


@dataclass(frozen=True)
class RequestName:
    """A client's name for a request, so that it makes one job however often it is sent."""

    idempotency_key: str
    body_sha256: str  # of what was asked for under that name


@dataclass(frozen=True)
class Order:
    """A request for a job, and whose it is. `pinned` is what its input says beside the request.

    `base` is the order of the job that is made for it, and that it waits for; without such a one
    `waits_for` may name a job that is there already.
    """

    request: JobRequest
    owner: str = ""
    name: RequestName | None = None
    retry_of: str | None = None
    pinned: Mapping[str, Any] = field(default_factory=dict)
    base: "Order | None" = None
    waits_for: str | None = None

    @property
    def parts(self) -> "list[Order]":
        """The orders of the jobs that it makes, itself last."""
        return [self] if self.base is None else [self.base, self]


def submit(database: Database, order: Order, settings: Settings) -> Job:
    """The job of an order, new or made by the same request before; raises why there is none."""
    (answer,) = submit_all(database, [order], settings)
    if isinstance(answer, Exception):
        raise answer
    return answer


def submit_all(
    database: Database, orders: Sequence[Order], settings: Settings
) -> list[Job | Exception]:
    """What `submit` returns or raises for each: one that fails harms no other.

    New jobs are committed together: they share the wait for the disk. Ring afterwards.
    """
    answers: dict[int, Job | Exception] = {}
    resolved: dict[int, Order] = {}
    named = [(number, order) for number, order in enumerate(orders) if order.name is not None]
    if named:
        with database.glance() as connection:
            for number, order in named:
                if (answer := _earlier(connection, order)) is not None:
                    answers[number] = answer
    for number, order in enumerate(orders):
        if number not in answers:
            try:
                resolved[number] = resolve_order(order, settings)
            except Exception as error:
                answers[number] = error
    if resolved:
        with database.begin() as connection:
            accepted = _accept_each(connection, list(resolved.values()), settings)
        answers |= zip(resolved, accepted, strict=True)
    return [answers[number] for number in range(len(orders))]


def _accept_each(
    connection: Connection, orders: Sequence[Order], settings: Settings
) -> list[Job | Exception]:
    """Usually none fails, so each is tried alone only where one did."""
    try:
        with connection.begin_nested():
            return [*_accept(connection, orders, settings)]
    except Exception:
        if connection.invalidated:  # the server is gone, and the whole transaction with it
            raise
    return [_accept_alone(connection, order, settings) for order in orders]


def _accept_alone(connection: Connection, order: Order, settings: Settings) -> Job | Exception:
    try:
        with connection.begin_nested():
            return accept(connection, order, settings)
    except (IntegrityError, QuotaExceeded) as error:
        # the same request, at the same moment, may have been faster
        return _earlier(connection, order) or error
    except Exception as error:
        if connection.invalidated:
            raise
        return error


def _earlier(connection: Connection, order: Order) -> Job | IdempotencyKeyReused | None:
    if order.name is None:
        return None
    try:
        return earlier(connection, order.owner, order.name)
    except IdempotencyKeyReused as error:
        return error


def accept(connection: Connection, order: Order, settings: Settings) -> Job:
    """Write the job of an order that `resolve_order` has filled in. Ring after the commit."""
    return _accept(connection, [order], settings)[0]


def _accept(connection: Connection, orders: Sequence[Order], settings: Settings) -> list[Job]:
    for owner, number in Counter(o.owner for order in orders for o in order.parts).items():
        quotas.check_queue(connection, owner, number, settings)
    orders = [_check_inputs(connection, order) for order in orders]
    written = iter(
        repository.accept_all(connection, [new for order in orders for new in _new_jobs(order)])
    )
    answers: list[Job] = []
    for order in orders:
        for part in order.parts:
            job = next(written)
            if part.request.hub_token is not None:
                secrets.put(connection, job.id, part.request.hub_token, settings)
        answers.append(job)
    return answers


def _new_jobs(order: Order) -> list[NewJob]:
    """One for each of its parts; of two, each names the other."""
    if order.base is None:
        return [_new_job(order)]
    base = _new_job(order.base)
    request = order.request.model_copy(update={"base": base.id, "revision": None})
    job = _new_job(replace(order, request=request, waits_for=base.id))
    return [replace(base, made_for=job.id), job]


def _new_job(order: Order) -> NewJob:
    request, name = order.request, order.name
    return NewJob(
        type=request.type,
        input={**order.pinned, **request.to_input()},
        labels=request.labels,
        metadata=request.metadata,
        device_class=request.device_class,
        priority=request.priority,
        owner=order.owner,
        max_pending_s=request.max_pending_s,
        max_runtime_s=request.max_runtime_s,
        retry_of=order.retry_of,
        waits_for=order.waits_for,
        idempotency_key=None if name is None else name.idempotency_key,
        body_sha256=None if name is None else name.body_sha256,
    )


def earlier(connection: Connection, owner: str, name: RequestName) -> Job | None:
    """The job that this key made before; raises `IdempotencyKeyReused` for another request."""
    key = name.idempotency_key
    query = select(jobs).where(jobs.c.owner == owner, jobs.c.idempotency_key == key)
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    job = job_from_row(row)
    if job.body_sha256 != name.body_sha256:
        raise IdempotencyKeyReused(
            f"Idempotency-Key {key[:80]!r} made {job.id} from another request; "
            "legal: a new key, or the same request"
        )
    return job


def retry(
    connection: Connection,
    job_id: str,
    settings: Settings,
    *,
    owner: str | None = None,
    hub_token: SecretStr | None = None,
) -> Job:
    """A new job that asks for the same, of the same owner. Its hub token was wiped: bring it.

    A finetune job whose base has not succeeded and will not is repeated together with that.
    Raises `JobNotFound`, `JobNotRetryable`, `QuotaExceeded`.
    """
    if hub_token is not None:
        secrets.check_can_keep(settings)
    old = repository.get(connection, job_id, owner)
    if old.state not in RETRYABLE:
        raise JobNotRetryable(f"{job_id} is {old.state}; legal: failed or cancelled")
    lost_base = _lost_base(connection, old)
    if lost_base is None:
        return accept(connection, _again(old, hub_token), settings)
    base = _again(lost_base, hub_token)
    return accept(connection, replace(_again(old, None), base=base), settings)


def _again(old: Job, hub_token: SecretStr | None) -> Order:
    fields = {name: getattr(old, name) for name in JobFields.model_fields if name != "hub_token"}
    request = request_of(old.input, **fields, hub_token=hub_token)
    pinned = {name: old.input[name] for name in request.PINNED if name in old.input}
    return Order(request, old.owner, retry_of=old.id, pinned=pinned)


def _lost_base(connection: Connection, job: Job) -> Job | None:
    """What a finetune job was to train on, if that is there and will never be trained on."""
    try:
        base = repository.get(connection, job.input.get("base", ""), job.owner)
    except JobNotFound:
        return None
    return base if base.state in (*RETRYABLE, State.CANCELLING) else None


def resolve_order(order: Order, settings: Settings) -> Order:
    """The order with nothing left open. Asks the hub, so never call it in a transaction.

    Raises `UserError` where the model is unknown or the config does not fit it.
    """
    request = order.request
    if request.hub_token is not None:
        secrets.check_can_keep(settings)
    if isinstance(request, QuantizeRequest):
        return _resolved(order, request, settings)[0]
    made = request.base_request()
    if made is None:
        if request.base_job is not None:
            finetunes.check_no_revision(request)
            return order
        request, pinned = finetunes.resolve_model(request, settings)
        return replace(order, request=request, pinned=pinned)
    with finetunes.naming_base("quantize"):
        base, facts = _resolved(Order(made, order.owner), made, settings)
    assert isinstance(base.request, QuantizeRequest)
    finetunes.check_made(request, base.request, facts)
    # the token goes with the job that reads the model
    return replace(order, request=request.model_copy(update={"hub_token": None}), base=base)


def _resolved(
    order: Order, request: QuantizeRequest, settings: Settings
) -> tuple[Order, ModelFacts]:
    """The order of a quantize request with nothing left open, and its model."""
    located = models.locate(request.model, request.revision, settings, request.hub_token)
    facts = models.inspect(located)
    config = resolve(request.config(), facts)
    calibration_source = config.calibration.source or texts.default_source(settings)
    evaluation_source = config.evaluation.source or calibration_source
    request = request.model_copy(
        update={
            **{name: getattr(config, name) for name in type(config).model_fields},
            "revision": located.revision,
            "calibration": config.calibration.model_copy(update={"source": calibration_source}),
            "evaluation": config.evaluation.model_copy(update={"source": evaluation_source}),
        }
    )
    pinned = {
        "context_length": facts.max_length,
        "narrowest_channels": facts.narrowest_channels,
        "has_chat_template": models.has_chat_template(located),
    }
    return replace(order, request=request, pinned=pinned), facts


def _check_inputs(connection: Connection, order: Order) -> Order:
    """What a job reads is there, and nobody deletes it before this transaction ends."""
    request = order.request
    if isinstance(request, QuantizeRequest):
        check_datasets(connection, request, order.owner)
        return order
    found = finetunes.lock_datasets(connection, request, order.owner)
    pinned = {**order.pinned, "model": request.base, "dataset_kind": found["dataset"].kind}
    of_model: Mapping[str, Any] = order.pinned
    waits_for = None
    if order.base is not None:
        assert isinstance(order.base.request, QuantizeRequest)
        with finetunes.naming_base("quantize"):
            check_datasets(connection, order.base.request, order.owner)
        pinned["model"], of_model = order.base.request.model, order.base.pinned
    elif request.base_job is not None:
        base = finetunes.lock_base(connection, request, request.base_job, order.owner)
        pinned["model"], of_model = base.input["model"], base.input
        if base.is_terminal:
            pinned |= chains.pinned_of(connection, base)
        else:  # which pins it when it has ended
            waits_for = base.id
    finetunes.check_chats(found, pinned["model"], of_model.get("has_chat_template"))
    return replace(order, pinned=pinned, waits_for=waits_for)


def check_datasets(connection: Connection, request: QuantizeRequest, owner: str) -> None:
    """Refuse a dataset that does not exist, that is no text, or that is surely too short.

    Called in the transaction that accepts the job, so that none is deleted in between. A token
    is at least a byte: a text with fewer bytes than tokens asked for cannot do; the exact count
    is only known where the tokenizer runs.
    """
    calibration, evaluation = request.calibration, request.evaluation
    samples = 0 if request.method == "rtn" else calibration.samples
    asked = [
        ("calibration", calibration.source, samples, calibration.held_out, calibration.length),
        ("evaluation", evaluation.source, evaluation.samples, 0, evaluation.length),
    ]
    for name, source, samples, held_out, length in asked:
        if source is None or not source.startswith(SOURCE):
            continue
        try:
            dataset = datasets.lock(connection, source.removeprefix(SOURCE), owner)
        except DatasetNotFound:
            raise UserError(
                "unknown_source",
                f"there is no dataset {source.removeprefix(SOURCE)}",
                param=f"{name}.source",
                value=source,
                legal="a dataset of GET /datasets, wikitext2, builtin",
            ) from None
        if dataset.kind != TEXT:
            raise UserError(
                "wrong_dataset_kind",
                f"{name}.source is {source}, a dataset of kind {dataset.kind}; "
                "legal: a dataset of kind text",
                param=f"{name}.source",
                value=source,
                legal="a dataset of kind text",
            )
        available = dataset.size_bytes // length
        if available < samples + held_out:
            raise too_little_text(
                name,
                samples=samples,
                held_out=held_out,
                length=length,
                available=available,
                there_is=f"{source} has {dataset.size_bytes} bytes, at most",
            )
