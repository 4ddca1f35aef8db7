"""A job as a value."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import uuid_utils

from jobs.states import TERMINAL, State


@dataclass(frozen=True)
class Job:
    """One row of `jobs` at one moment."""

    id: str  # job_ and a uuid7: ids sort by time
    type: str  # quantize
    owner: str  # who submitted it: the owner of an API key; empty where there are no keys
    state: State
    phase: str | None  # what a running job is doing: downloading, calibrating, quantizing, ...
    attempt: int  # the fencing token: counts claims; 0 before the first
    infra_losses: int  # how often machines lost it at `loss_block`; drains do not count
    event_seq: int  # sequence number of its latest event
    priority: int  # -100 to 100; higher runs first
    device_class: str  # which workers may run it: any, cpu, cuda
    input: dict[str, Any]  # the request, every default resolved
    labels: dict[str, str]  # to find it by
    metadata: dict[str, Any]  # the client's; kept, never read
    retry_of: str | None  # the job that this one repeats
    waits_for: str | None  # the job that has to succeed first; exactly while it has not ended
    made_for: str | None  # the job whose request asked for this one too
    idempotency_key: str | None  # the client's name for the request that made it
    body_sha256: str | None  # of that request; exactly if it has an idempotency key
    progress: dict[str, Any] | None  # done, total, unit, percent, eta_seconds
    error: dict[str, Any] | None  # code, message, fault, retryable; exactly if it failed
    last_loss: dict[str, Any] | None  # what the machines failed at, until it runs again
    metrics: dict[str, Any] | None  # headline figures; exactly if it succeeded
    created_at: datetime
    started_at: datetime | None  # of the first attempt
    finished_at: datetime | None  # exactly if it is terminal
    cancel_requested_at: datetime | None
    max_pending_s: int | None  # from acceptance, or the end of `waits_for`, to the first claim
    max_runtime_s: int | None  # from the first claim to the end, pauses included
    expires_at: datetime | None  # when the one of the two that counts now is over
    deleted_at: datetime | None  # nobody sees it any more; a sweep removes it
    run_after: datetime  # not claimed before: the pause after a loss
    lease_until: datetime | None  # exactly if a worker holds it
    worker_id: str | None  # who holds it, or held it last
    loss_block: int | None  # the furthest block that was next when machines lost it

    @property
    def is_terminal(self) -> bool:
        return self.state in TERMINAL


@dataclass(frozen=True)
class JobEvent:
    """One entry of a job's history, append-only."""

    seq: int  # 1, 2, 3 ... without a gap
    type: str
    at: datetime
    data: dict[str, Any]


@dataclass(frozen=True)
class Artifact:
    """One file that a job published."""

    path: str  # as the client sees it: model/config.json
    size_bytes: int
    sha256: str
    content_type: str
    key: str  # where it lies in the artifact store


def new_job_id() -> str:
    """A fresh id; later ids sort after earlier ones."""
    return f"job_{uuid_utils.uuid7()}"
