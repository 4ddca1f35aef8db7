"""From what was asked to a job: every default filled in, then accepted in one transaction."""

from pydantic import SecretStr
from sqlalchemy import Connection, select

from apiq_core.errors import UserError
from apiq_core.resolve import resolve
from jobs import datasets, models, quotas, repository, secrets, texts
from jobs.errors import DatasetNotFound, IdempotencyKeyReused, JobNotRetryable
from jobs.job import Job
from jobs.requests import QuantizeRequest
from jobs.rows import job_from_row
from jobs.schema import jobs
from jobs.settings import Settings
from jobs.states import State

RETRYABLE = (State.FAILED, State.CANCELLED)


def accept(
    connection: Connection,
    request: QuantizeRequest,
    settings: Settings,
    *,
    owner: str = "",
    retry_of: str | None = None,
    idempotency_key: str | None = None,
    body_sha256: str | None = None,
) -> Job:
    """Write a job for a request that `resolve_request` has filled in. Ring after the commit."""
    quotas.check_queue(connection, owner, settings)
    check_datasets(connection, request, owner)
    job = repository.accept(
        connection,
        type=request.type,
        input=request.to_input(),
        labels=request.labels,
        metadata=request.metadata,
        device_class=request.device_class,
        priority=request.priority,
        owner=owner,
        max_pending_s=request.max_pending_s,
        max_runtime_s=request.max_runtime_s,
        retry_of=retry_of,
        idempotency_key=idempotency_key,
        body_sha256=body_sha256,
    )
    if request.hub_token is not None:
        secrets.put(connection, job.id, request.hub_token, settings)
    return job


def earlier(
    connection: Connection, owner: str, idempotency_key: str, body_sha256: str
) -> Job | None:
    """The job that this key made before; raises `IdempotencyKeyReused` for another request."""
    query = select(jobs).where(jobs.c.owner == owner, jobs.c.idempotency_key == idempotency_key)
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    job = job_from_row(row)
    if job.body_sha256 != body_sha256:
        raise IdempotencyKeyReused(
            f"Idempotency-Key {idempotency_key[:80]!r} made {job.id} from another request; "
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

    Raises `JobNotFound`, `JobNotRetryable`, `QuotaExceeded`.
    """
    if hub_token is not None:
        secrets.check_can_keep(settings)
    old = repository.get(connection, job_id, owner)
    if old.state not in RETRYABLE:
        raise JobNotRetryable(f"{job_id} is {old.state}; legal: failed or cancelled")
    fields = {
        name: getattr(old, name)
        for name in (
            "labels",
            "metadata",
            "priority",
            "device_class",
            "max_pending_s",
            "max_runtime_s",
        )
    }
    request = QuantizeRequest.model_validate(old.input | fields | {"hub_token": hub_token})
    return accept(connection, request, settings, owner=old.owner, retry_of=old.id)


def resolve_request(request: QuantizeRequest, settings: Settings) -> QuantizeRequest:
    """The request with nothing left open. Asks the hub, so never call it in a transaction.

    Raises `UserError` where the model is unknown or the config does not fit it.
    """
    if request.hub_token is not None:
        secrets.check_can_keep(settings)
    located = models.locate(request.model, request.revision, settings, request.hub_token)
    config = resolve(request.config(), models.inspect(located))
    calibration_source = config.calibration.source or texts.default_source(settings)
    evaluation_source = config.evaluation.source or calibration_source
    return request.model_copy(
        update={
            **{name: getattr(config, name) for name in type(config).model_fields},
            "revision": located.revision,
            "calibration": config.calibration.model_copy(update={"source": calibration_source}),
            "evaluation": config.evaluation.model_copy(update={"source": evaluation_source}),
        }
    )


def check_datasets(connection: Connection, request: QuantizeRequest, owner: str) -> None:
    """Refuse a dataset that does not exist, or that is surely too short.

    Called in the transaction that accepts the job, so that none is deleted in between. A token
    is at least a byte: a text with fewer bytes than tokens asked for cannot do; the exact count
    is only known where the tokenizer runs.
    """
    calibration, evaluation = request.calibration, request.evaluation
    samples = 0 if request.method == "rtn" else calibration.samples
    asked = [
        ("calibration", calibration.source, samples + calibration.held_out, calibration.length),
        ("evaluation", evaluation.source, evaluation.samples, evaluation.length),
    ]
    for name, source, samples, length in asked:
        if source is None or not source.startswith(texts.DATASET):
            continue
        try:
            dataset = datasets.lock(connection, source.removeprefix(texts.DATASET), owner)
        except DatasetNotFound:
            raise UserError(
                "unknown_source",
                f"there is no dataset {source.removeprefix(texts.DATASET)}",
                param=f"{name}.source",
                value=source,
                legal="a dataset of GET /datasets, wikitext2, builtin",
            ) from None
        if dataset.size_bytes < samples * length:
            raise UserError(
                "too_little_text",
                f"{name} asks for {samples} windows of {length} tokens; {source} has "
                f"{dataset.size_bytes} bytes, at most {dataset.size_bytes // length} windows",
                param=f"{name}.samples",
                value=samples,
                legal={"at_most": dataset.size_bytes // length},
            )
