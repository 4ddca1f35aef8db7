"""One attempt of a job, from the claim to its end.

The child does the work; the supervisor keeps the lease, writes down what the child tells,
passes on a cancel or a drain, and decides by the child's end how the attempt ends. Everything it
writes is fenced by the attempt: once the lease is lost it changes nothing any more.
"""

import shutil
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from pathlib import Path
from typing import Any, TypeVar

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from apiq_core.errors import InfraError
from jobs import doorbell, leases, repository, secrets
from jobs.artifacts import files_prefix, job_prefix, log_key
from jobs.database import is_away
from jobs.directories import in_use
from jobs.errors import CancelRequested, JobNotFound, LeaseLost
from jobs.job import Job
from jobs.states import State
from worker import patience
from worker.checkpoints import Checkpoints, clear
from worker.context import Worker
from worker.heart import Heart
from worker.journal import Journal
from worker.logs import MAX_LINE_CHARACTERS, ChildLog, redact
from worker.plain import plain
from worker.process import Child
from worker.publish import discard, upload
from worker.wire import (
    EXIT_DONE,
    EXIT_STOPPED,
    EXIT_USER,
    KEPT_FROM_CHILD,
    Message,
    Spec,
    fault_of,
)

POLL_S = 0.2
# for what the store still has to take when the child has ended; with `drain_grace_s` less than
# the minute that a container has to stop
LAST_STORE_S = 30.0

log = structlog.get_logger(__name__)

End = Callable[[Connection], Job]  # writes the end of the attempt
T = TypeVar("T")


def supervise(worker: Worker, job: Job) -> bool:
    """Run a claimed job's attempt to its end, whatever that is; false if the machines failed it."""
    scratch_dir = worker.settings.scratch_dir / f"{job.id}.{job.attempt}"
    logger = log.bind(job=job.id, attempt=job.attempt)
    try:
        with Heart(worker, job) as heart:
            attempt = _Attempt(worker, job, heart, scratch_dir)
            job = attempt.run()
        logger.info("attempt_ended", state=job.state, code=(job.error or {}).get("code"))
        discard(worker.store, job)
        if job.is_terminal:
            clear(worker, job)
        elif job.state == State.QUEUED:
            doorbell.ring(worker.settings, job)
        return not attempt.was_lost
    except LeaseLost:
        _discard_own(worker, job, logger)
        return True
    finally:
        shutil.rmtree(scratch_dir, ignore_errors=True)


class Drained(Exception):
    """The worker is to end, and the child has not begun."""


class _Attempt:
    def __init__(self, worker: Worker, job: Job, heart: Heart, scratch_dir: Path) -> None:
        self.worker = worker
        self.job = job
        self.heart = heart
        self.scratch_dir = scratch_dir
        self.journal = Journal(worker.database, job)
        self.checkpoints = Checkpoints(worker, job, scratch_dir / "out", self.journal)
        key = log_key(job.id, job.attempt)
        self.log = ChildLog(scratch_dir / "child.log", worker.store, key)
        self.killed = False  # by us, because it did not stop when asked to
        self.was_lost = False  # the machines failed it

    def run(self) -> Job:
        """Run the child and write the end; raises `LeaseLost`."""
        try:
            with in_use(self.scratch_dir):  # even where a sweep takes the job from us
                self.checkpoints.restore(self._check_restoring)
                exit_code = self._run_child()
                end = self._how_it_ended(exit_code)
        except LeaseLost:
            raise
        except CancelRequested:
            end = self._cancelled
        except Drained:
            end = self._requeue
        except Exception as error:
            log.exception("supervisor_failed", job=self.job.id, attempt=self.job.attempt)
            end = self._lose(own_fault(error))
        try:
            return self._commit(end)
        except CancelRequested:  # it came while we were about to write another end
            return self._commit(self._cancelled)

    def _run_child(self) -> int:
        """The child's exit code; what it leaves to store is stored."""
        spec = Spec(
            self.job.id,
            self.job.attempt,
            self.job.input,
            str(self.scratch_dir),
            self.worker.settings.model_dump(mode="json", exclude=set(KEPT_FROM_CHILD)),
            self._hub_token(),
            self._base_files(),
        )
        exit_code = EXIT_DONE  # of one that lost its lease nothing more is stored, either
        try:
            exit_code = self._watch(spec)
        finally:  # what is on its way has to be there before it may be discarded
            until = time.monotonic() + LAST_STORE_S
            if exit_code != EXIT_DONE and not self.heart.cancel.is_set():
                self.checkpoints.store(within_s=LAST_STORE_S)
            self.log.finish(until - time.monotonic())
            wait(self.checkpoints.under_way(), until - time.monotonic())
        return exit_code

    def _watch(self, spec: Spec) -> int:
        """From the child's start to its end: cancel and drain, journal, log and checkpoints."""
        with Child(self.worker.child_command, spec, self.log.path) as child:
            kill_at: float | None = None
            while (exit_code := child.exit_code()) is None:
                self._hear(child.read(POLL_S))
                self._check_lease()
                grace_s = self._stop_grace_s()
                if grace_s is not None and kill_at is None:
                    child.stop()
                    kill_at = time.monotonic() + grace_s
                if kill_at is not None and time.monotonic() > kill_at:
                    self.killed = True
                    child.kill()
                # last, for the database may keep us
                self.checkpoints.store()
                self.log.refresh()
                self.journal.flush()
            self._hear(child.read(0))
        return exit_code

    def _hear(self, messages: Sequence[Message]) -> None:
        self.journal.take(messages)
        self.checkpoints.take(messages)

    def _base_files(self) -> list[dict[str, str]]:
        """What the job that is trained on has published; none for other jobs."""
        files = self._read(
            lambda connection: repository.artifacts_of(connection, self.job.input.get("base", ""))
        )
        return [{"path": f.path, "key": f.key, "sha256": f.sha256} for f in files]

    def _hub_token(self) -> str | None:
        """The job's own, which nothing that is written down may show."""
        token = self._read(
            lambda connection: secrets.hub_token(connection, self.job.id, self.worker.settings)
        )
        if token is not None:
            self.journal.secrets = self.log.secrets = (token,)
        return token

    def _stop_grace_s(self) -> float | None:
        """How long the child may take to stop, if it should."""
        if self.heart.cancel.is_set():
            return self.worker.settings.cancel_grace_s
        return self.worker.settings.drain_grace_s if self.worker.drain.is_set() else None

    def _how_it_ended(self, exit_code: int) -> End:
        drained = self.worker.drain.is_set() and (self.killed or exit_code == EXIT_STOPPED)
        if self.heart.cancel.is_set():
            return self._cancelled
        if exit_code == EXIT_DONE and self.journal.result is not None:
            return self._publish(self.journal.result)
        if drained:
            return self._requeue
        error = self.journal.error
        if exit_code == EXIT_USER and error is not None:
            return lambda c: leases.fail(c, self.job.id, self.job.attempt, error)
        return self._lose(error or crash(exit_code, self.log.last_line()))

    def _publish(self, result: dict[str, Any]) -> End:
        self.journal.enter("uploading")
        self.journal.flush(now=True)
        out_dir = self.scratch_dir / "out"
        texts = result.get("text_sha256", {})
        files = upload(self.worker.store, self.job, out_dir, texts, self._check)
        metrics = result.get("metrics", {})
        return lambda c: leases.publish(c, self.job.id, self.job.attempt, files, metrics)

    def _lose(self, error: dict[str, Any]) -> End:
        self.was_lost = True
        told = plain(error)  # it may quote what the child printed
        return lambda c: leases.lose(c, self.job, told, self.worker.settings)

    def _cancelled(self, connection: Connection) -> Job:
        return leases.cancelled(connection, self.job.id, self.job.attempt)

    def _requeue(self, connection: Connection) -> Job:
        return leases.requeue(connection, self.job.id, self.job.attempt, "drained")

    def _check_restoring(self) -> None:
        self._check()
        if self.worker.drain.is_set():
            raise Drained

    def _check(self) -> None:
        """Between two files."""
        self._check_lease()
        if self.heart.cancel.is_set():
            raise CancelRequested(f"{self.job.id} is to be cancelled")

    def _check_lease(self) -> None:
        if self.heart.lost.is_set():
            raise LeaseLost(f"attempt {self.job.attempt} no longer holds {self.job.id}")

    def _commit(self, end: End) -> Job:
        """Write what is left to say and the end: one transaction, tried while there is a lease."""

        def write() -> Job:
            with self.worker.database.begin() as connection:
                self.journal.write(connection)
                return end(connection)

        return patience.with_database(write, self.worker.settings)

    def _read(self, query: Callable[[Connection], T]) -> T:
        def read() -> T:
            with self.worker.database.read() as connection:
                return query(connection)

        return patience.with_database(read, self.worker.settings)


def _discard_own(worker: Worker, lost: Job, logger: structlog.stdlib.BoundLogger) -> None:
    """Delete what an attempt that no longer holds its job stored, unless it is what was published.

    It can be: the commit that published may have succeeded without its answer arriving. A job
    that was deleted meanwhile is forgotten: what was stored since then nobody else would remove.
    """
    try:
        with worker.database.read() as connection:
            job = repository.get(connection, lost.id)
    except JobNotFound:  # deleted, before our last object was stored
        logger.info("job_ended_meanwhile", state="deleted")
        worker.store.delete_prefix(job_prefix(lost.id))
        return
    if job.attempt == lost.attempt and job.is_terminal:  # by a sweep
        logger.info("job_ended_meanwhile", state=job.state, code=(job.error or {}).get("code"))
    else:
        logger.warning("lease_lost", state=job.state)
    if job.attempt == lost.attempt:
        discard(worker.store, job)
    else:
        worker.store.delete_prefix(files_prefix(lost.id, lost.attempt))
    if job.is_terminal:  # else the next attempt may need them
        clear(worker, job)


def own_fault(error: Exception) -> dict[str, Any]:
    """The error of an attempt that the supervisor could not bring to its end."""
    if (known := fault_of(error)) is not None:
        return known.to_dict() | {"message": redact(known.message)}
    words = redact(f"{type(error).__name__}: {error}")[:MAX_LINE_CHARACTERS]
    if isinstance(error, SQLAlchemyError):  # its own words name the server, and quote rows
        if is_away(error):
            return InfraError("database_unavailable", "the database was away").to_dict()
        words = type(error).__name__
    return InfraError("worker_failed", f"the worker failed around the job: {words}").to_dict()


def crash(exit_code: int, last_line: str | None) -> dict[str, Any]:
    """The error of a child that ended without saying why."""
    if exit_code < 0:
        how = f"was ended by signal {-exit_code} ({_signal_name(-exit_code)})"
    else:
        how = f"ended with exit code {exit_code}"
    words = f"; its last words: {last_line}" if last_line else ""
    error = InfraError("worker_crashed", f"the process that ran the job {how}{words}")
    return error.to_dict() | {"exit_code": exit_code}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
