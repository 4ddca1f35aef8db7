"""What jobs are supposed to do, in plain Python: one thread, no database.

Each method either changes the model and returns None, or changes nothing and returns the error
that the records must answer. Moments are milliseconds.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from jobs.errors import (
    CancelRequested,
    JobAlreadyFinished,
    JobError,
    JobInUse,
    JobNotFinished,
    JobNotFound,
    JobNotRetryable,
    LeaseLost,
    QuotaExceeded,
)
from jobs.settings import Settings

Refusal = type[JobError] | None


@dataclass(frozen=True)
class Wish:
    """What a client asks for, as far as the records care."""

    owner: str = ""
    priority: int = 0
    device_class: str = "any"
    max_pending_s: int | None = None
    max_runtime_s: int | None = None


@dataclass
class ModelJob:
    """A job as everybody should see it; `born` is its place in the order of acceptance."""

    id: str
    wish: Wish
    born: int
    created_at: int
    run_after: int
    expires_at: int | None
    retry_of: str | None = None
    base: str | None = None  # of a finetune job
    waits_for: str | None = None
    made_for: str | None = None
    key: str | None = None
    token: bool = False
    state: str = "queued"
    attempt: int = 0
    losses: int = 0
    loss_block: int | None = None
    blocks: dict[int, int] = field(default_factory=dict)  # finished block -> its attempt
    phase: str | None = None
    progress: int | None = None
    error: str | None = None
    started_at: int | None = None
    finished_at: int | None = None
    cancel_requested_at: int | None = None
    deleted_at: int | None = None
    lease_until: int | None = None
    worker: str | None = None
    history: list[tuple[str, int]] = field(default_factory=list)  # type of event, moment
    files: tuple[str, ...] = ()  # keys in the artifact store

    @property
    def ended(self) -> bool:
        return self.state in ("succeeded", "failed", "cancelled")

    @property
    def held(self) -> bool:
        return self.state in ("running", "cancelling")


class Model:
    def __init__(self, settings: Settings, now_ms: int) -> None:
        self.settings = settings
        self.now = now_ms
        self.jobs: dict[str, ModelJob] = {}
        self._born = 0

    # the face

    def visible(self, job_id: str) -> ModelJob | None:
        job = self.jobs.get(job_id)
        return job if job is not None and job.deleted_at is None else None

    def with_key(self, owner: str, key: str | None) -> str | None:
        """The id of the job that an idempotency key stands for."""
        for job_id, job in self.jobs.items():
            if key is not None and (job.wish.owner, job.key) == (owner, key):
                return job_id
        return None

    def may_accept(self, owner: str, number: int = 1) -> Refusal:
        limit = self.settings.max_queued_jobs_per_owner
        waiting = [j for j in self._of(owner) if j.state == "queued"]
        is_full = limit is not None and len(waiting) + number > limit
        return QuotaExceeded if owner and is_full else None

    def accept(self, job_id: str, wish: Wish, **fields: Any) -> None:
        now = self.now
        self._born += 1
        job = ModelJob(job_id, wish, self._born, now, now, None, **fields)
        if job.waits_for is None:
            job.expires_at = self._pending_until(wish)
        job.history.append(("accepted", now))
        self.jobs[job_id] = job

    def _pending_until(self, wish: Wish) -> int | None:
        return None if wish.max_pending_s is None else self.now + wish.max_pending_s * 1000

    def may_be_trained_on(self, job_id: str | None) -> bool:
        job = self.visible(job_id) if job_id is not None else None
        return (
            job is not None and job.base is None and job.state in ("queued", "running", "succeeded")
        )

    def is_base_lost(self, job: ModelJob) -> bool:
        """Whether to repeat it takes another base."""
        base = self.visible(job.base) if job.base is not None else None
        return base is not None and base.state in ("failed", "cancelled", "cancelling")

    def may_retry(self, job_id: str) -> Refusal:
        job = self.visible(job_id)
        if job is None:
            return JobNotFound
        if job.state not in ("failed", "cancelled"):
            return JobNotRetryable
        return self.may_accept(job.wish.owner, 2 if self.is_base_lost(job) else 1)

    def cancel(self, job_id: str) -> Refusal:
        job = self.visible(job_id)
        if job is None:
            return JobNotFound
        if job.state in ("succeeded", "failed"):
            return JobAlreadyFinished
        if job.state == "queued":
            job.cancel_requested_at = self.now
            base = self.jobs.get(job.waits_for or "")
            self._end(job, "cancelled")
            if base is not None and base.made_for == job.id and not self._waiting_for(base):
                self.cancel(base.id)
        elif job.state == "running":
            job.state, job.cancel_requested_at = "cancelling", self.now
            job.history.append(("cancelling", self.now))
        return None

    def delete(self, job_id: str) -> Refusal:
        job = self.visible(job_id)
        if job is None:
            return JobNotFound
        if not job.ended:
            return JobNotFinished
        if any(user.base == job_id and not user.ended for user in self.jobs.values()):
            return JobInUse
        job.deleted_at, job.key = self.now, None
        return None

    def forget(self, job_id: str) -> None:
        job = self.jobs.get(job_id)
        if job is not None and job.deleted_at is not None:
            del self.jobs[job_id]

    # the workers

    def claim(self, worker: str, device_class: str, ttl_ms: int) -> str | None:
        """The id of the job that this worker gets."""
        runnable = [
            (-job.wish.priority, job.born, job_id)
            for job_id, job in self.jobs.items()
            if job.state == "queued"
            and job.waits_for is None
            and job.run_after <= self.now
            and (job.expires_at is None or self.now < job.expires_at)
            and job.wish.device_class in ("any", device_class)
            and not self._is_busy(job.wish.owner)
        ]
        if not runnable:
            return None
        job_id = min(runnable)[-1]
        job = self.jobs[job_id]
        if job.started_at is None:
            limit_s = job.wish.max_runtime_s
            job.started_at = self.now
            job.expires_at = None if limit_s is None else self.now + limit_s * 1000
        job.state, job.worker, job.progress = "running", worker, None
        job.attempt += 1
        job.lease_until = self.now + ttl_ms
        job.history.append(("started", self.now))
        return job_id

    def holder(self, job_id: str, attempt: int) -> ModelJob | None:
        """The job, if this attempt has it now."""
        job = self.jobs.get(job_id)
        return job if job is not None and job.held and job.attempt == attempt else None

    def beat(self, job_id: str, attempt: int, ttl_ms: int) -> Refusal:
        job = self.holder(job_id, attempt)
        if job is None:
            return LeaseLost
        job.lease_until = self.now + ttl_ms
        return None

    def record(
        self, job_id: str, attempt: int, events: int, phase: str | None, done: int | None
    ) -> Refusal:
        job = self.holder(job_id, attempt)
        if job is None:
            return LeaseLost
        job.history += [("block", self.now)] * events
        job.phase = job.phase if phase is None else phase
        job.progress = job.progress if done is None else done
        return None

    def checkpoint(self, job_id: str, attempt: int, block: int) -> Refusal:
        refusal = self.drop(job_id, attempt, block)
        if refusal is None:
            self.jobs[job_id].blocks[block] = attempt
        return refusal

    def drop(self, job_id: str, attempt: int, block: int) -> Refusal:
        job = self.holder(job_id, attempt)
        if job is None:
            return LeaseLost
        job.blocks = {done: by for done, by in job.blocks.items() if done < block}
        return None

    def may_end(self, job_id: str, attempt: int) -> Refusal:
        """A cancel comes before any other end."""
        job = self.holder(job_id, attempt)
        if job is None:
            return LeaseLost
        return CancelRequested if job.state == "cancelling" else None

    def publish(self, job_id: str, attempt: int, files: tuple[str, ...]) -> Refusal:
        refusal = self.may_end(job_id, attempt)
        if refusal is None:
            self.jobs[job_id].files = files
            self._end(self.jobs[job_id], "succeeded")
        return refusal

    def fail(self, job_id: str, attempt: int, code: str) -> Refusal:
        refusal = self.may_end(job_id, attempt)
        if refusal is None:
            self._end(self.jobs[job_id], "failed", code)
        return refusal

    def cancelled(self, job_id: str, attempt: int) -> Refusal:
        if self.may_end(job_id, attempt) is not CancelRequested:
            return LeaseLost  # nobody asked for it
        self._end(self.jobs[job_id], "cancelled")
        return None

    def requeue(self, job_id: str, attempt: int) -> Refusal:
        refusal = self.may_end(job_id, attempt)
        if refusal is None:
            self._queue(self.jobs[job_id], "requeued", 0)
        return refusal

    def lose(self, job_id: str, attempt: int, code: str) -> Refusal:
        refusal = self.may_end(job_id, attempt)
        if refusal is None:
            self._lose(self.jobs[job_id], code)
        return refusal

    # the sweeper

    def sweep(self) -> tuple[set[str], set[str], set[str]]:
        """Ids: taken back, with checkpoints to clear, deleted and still there."""
        s, now = self.settings, self.now
        taken_back, clear, deleted = set(), set(), set()
        for job_id, job in self.jobs.items():
            events = len(job.history)
            lapsed = job.lease_until is not None and job.lease_until < now
            if job.state == "running" and lapsed:
                self._lose(job, "worker_lost")
            elif job.state == "cancelling":
                assert job.cancel_requested_at is not None
                if lapsed or now - job.cancel_requested_at > 3 * s.cancel_grace_s * 1000:
                    self._end(job, "cancelled")
            if (
                job.state in ("queued", "running")
                and job.expires_at is not None
                and job.expires_at < now
            ):
                what = "pending" if job.started_at is None else "runtime"
                self._end(job, "failed", f"max_{what}_exceeded")
            if len(job.history) > events:
                taken_back.add(job_id)
        for job_id, job in self.jobs.items():
            kept_ms = 0 if job.finished_at is None else now - job.finished_at
            if job.ended and s.retention_days and kept_ms > s.retention_days * 86_400_000:
                self.delete(job_id)
            if job.ended and job.blocks:
                clear.add(job_id)
            if job.deleted_at is not None:
                deleted.add(job_id)
        return taken_back, clear, deleted

    def _lose(self, job: ModelJob, code: str) -> None:
        following = max(job.blocks, default=-1) + 1
        if job.loss_block is None or job.loss_block < following:  # it got further: count anew
            job.loss_block, job.losses = following, 0
        job.losses += 1
        if job.losses == self.settings.max_infra_losses:
            self._end(job, "failed", code)
        else:
            pause_s = self.settings.retry_backoff_s * (1, 2, 4, 8)[job.losses - 1]
            self._queue(job, "retrying", round(pause_s * 1000))

    def _queue(self, job: ModelJob, event: str, pause_ms: int) -> None:
        job.state, job.phase, job.lease_until, job.progress = "queued", None, None, None
        job.run_after = self.now + pause_ms
        job.history.append((event, self.now))

    def _end(self, job: ModelJob, state: str, error: str | None = None) -> None:
        job.state, job.phase, job.lease_until, job.expires_at = state, None, None, None
        job.finished_at, job.error, job.token = self.now, error, False
        job.history.append((state, self.now))
        job.waits_for = None
        for waiting in self._waiting_for(job):
            if state == "succeeded":
                waiting.waits_for = None
                waiting.expires_at = self._pending_until(waiting.wish)
                waiting.history.append(("released", self.now))
            else:
                self._end(waiting, "failed", "base_failed")

    def _waiting_for(self, base: ModelJob) -> list[ModelJob]:
        return [job for job in self.jobs.values() if job.waits_for == base.id]

    def _of(self, owner: str) -> Iterator[ModelJob]:
        return (job for job in self.jobs.values() if job.wish.owner == owner)

    def _is_busy(self, owner: str) -> bool:
        limit = self.settings.max_running_jobs_per_owner
        running = [job for job in self._of(owner) if job.held]
        return owner != "" and limit is not None and len(running) >= limit
