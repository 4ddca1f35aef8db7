"""Checkpoints on their way between attempts: stored as they come, brought back for the next.

The child writes a block's file, or the state behind a step of training, and tells; here it becomes
an object and a row. Before the next child starts, on whatever host, the rows say which objects are
put where the child looks.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from functools import partial
from pathlib import Path
from typing import Any

import stamina
import structlog

from apiq_core.layout import block_file, training_checkpoint
from jobs import checkpoints
from jobs.artifacts import ArtifactStore, Stored, block_key, blocks_prefix
from jobs.checkpoints import Checkpoint
from jobs.errors import ObjectNotFound
from jobs.job import Job
from worker import patience
from worker.aside import aside
from worker.context import Worker
from worker.journal import Journal
from worker.logs import redact
from worker.wire import FULL_DISK, Message

RETRY_PAUSE_S = 5.0  # before a block that could not be stored is tried again

log = structlog.get_logger(__name__)


class Damaged(Exception):
    """The object is not what its row says."""


class Checkpoints:
    """Those of one attempt."""

    def __init__(self, worker: Worker, job: Job, out_dir: Path, journal: Journal) -> None:
        self._worker = worker
        self._job = job
        self._out_dir = out_dir
        self._journal = journal
        self._trains = job.type == "finetune"  # then a checkpoint takes the place of the last
        self._waiting: list[int] = []  # told by the child, not stored yet
        self._latest_key: str | None = None
        self._not_before = 0.0
        self._storing: tuple[int, Future[Stored]] | None = None  # a block on its way
        self._deleting: Future[None] | None = None

    def restore(self, check: Callable[[], None]) -> None:
        """Bring what earlier attempts finished to where the child looks.

        The first block that cannot be had ends it: that one and later ones are made anew.
        `check` is called before each try and may raise. Raises `LeaseLost`, and `OSError` if the
        disk here is full.
        """
        found = patience.with_database(self._noted, self._worker.settings)
        if found:
            self._journal.enter("downloading")
            self._journal.flush(now=True)
        if self._trains:
            found = found[-1:]
            self._latest_key = found[0].key if found else None
        for checkpoint in found:
            target = self._file(checkpoint.block)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                for attempt in stamina.retry_context(
                    on=_may_pass, attempts=None, timeout=patience.PATIENCE_S
                ):
                    with attempt:
                        check()
                        _fetch(self._worker.store, checkpoint, target)
            except (ObjectNotFound, Damaged, OSError) as error:
                target.unlink(missing_ok=True)
                if isinstance(error, OSError) and not _may_pass(error):
                    raise
                self._give_up(checkpoint.block, error)
                return

    def _noted(self) -> list[Checkpoint]:
        with self._worker.database.read() as connection:
            return checkpoints.of_job(connection, self._job.id)

    def take(self, messages: Sequence[Message]) -> None:
        """Hear what the child tells of its blocks or steps. Raises `LeaseLost`."""
        for message in messages:
            match message:
                case {"type": "block", "data": {"index": index}}:
                    self._waiting.append(index)
                case {"type": "checkpoint", "data": {"step": step}}:
                    self._waiting = [step]
                case {"type": "warning", "data": {"code": "checkpoint_discarded", "block": block}}:
                    self._drop(block)

    def store(self, *, within_s: float = 0.0) -> None:
        """Store the blocks that wait, in their order; the caller waits at most `within_s`.

        Raises `LeaseLost`. A store may hang, so it is asked aside. A block that cannot be stored
        waits for another time: until then the job is only less safe.
        """
        deadline = time.monotonic() + within_s
        while self._waiting and (within_s or time.monotonic() >= self._not_before):
            if self._storing is None:
                block = self._waiting[0]
                path = self._file(block)
                if not path.exists():  # it is packed up: there is nothing to resume any more
                    del self._waiting[0]
                    continue
                self._storing = (
                    block,
                    aside(partial(self._worker.store.put_file, self._key(block), path)),
                )
            block, stored = self._storing
            wait([stored], max(0.0, deadline - time.monotonic()))
            if not stored.done():
                return
            self._storing = None
            if not self._note(block, stored):
                self._not_before = time.monotonic() + RETRY_PAUSE_S
                return
            self._waiting = [waiting for waiting in self._waiting if waiting != block]

    def under_way(self) -> list[Future[Any]]:
        """What the store was asked for and has not done."""
        storing = None if self._storing is None else self._storing[1]
        return [asked for asked in (storing, self._deleting) if asked is not None]

    def _key(self, block: int) -> str:
        return block_key(self._job.id, self._job.attempt, block)

    def _note(self, block: int, storing: Future[Stored]) -> bool:
        """Note a block once it is stored, together with what the child told so far."""
        job, key = self._job, self._key(block)
        try:
            stored = storing.result()
        except OSError as error:
            log.warning("checkpoint_delayed", job=job.id, block=block, error=redact(repr(error)))
            return False
        note = checkpoints.replace if self._trains else checkpoints.record
        noted = self._journal.flush(
            now=True,
            also=lambda connection: note(connection, job.id, job.attempt, block, key, stored),
        )
        if noted and self._trains:
            self._forget_earlier(key)
        return noted

    def _forget_earlier(self, key: str) -> None:
        """Delete the object before `key`; what fails goes when the job ends."""
        earlier, self._latest_key = self._latest_key, key
        if earlier is not None and earlier != key:
            self._deleting = aside(partial(self._worker.store.delete_prefix, earlier))

    def _file(self, block: int) -> Path:
        return (
            training_checkpoint(self._out_dir) if self._trains else block_file(self._out_dir, block)
        )

    def _give_up(self, block: int, error: Exception) -> None:
        what, then = f"block {block}", "it and later blocks are made anew"
        if self._trains:
            what, then = f"the state behind step {block}", "training begins anew"
        message = (
            f"{what} of an earlier attempt could not be brought back ({redact(str(error))}); {then}"
        )
        data = {"code": "checkpoint_damaged", "message": message, "block": block}
        self._journal.tell("warning", data)
        self._drop(block)

    def _drop(self, block: int) -> None:
        """Forget what nobody will resume from; if that fails, the next block to be stored does."""
        job = self._job
        self._journal.flush(
            now=True,
            also=lambda connection: checkpoints.drop(connection, job.id, job.attempt, block),
        )


def clear(worker: Worker, job: Job) -> None:
    """Delete the checkpoints of a job that has ended. What fails is left to a later sweep."""
    try:
        for attempt in range(1, job.attempt + 1):
            worker.store.delete_prefix(blocks_prefix(job.id, attempt))
    except OSError as error:
        log.warning("checkpoints_not_cleared", job=job.id, error=redact(repr(error)))
        return
    with worker.database.begin() as connection:
        checkpoints.forget(connection, job.id)


def _fetch(store: ArtifactStore, checkpoint: Checkpoint, target: Path) -> None:
    digest = hashlib.sha256()
    with target.open("wb") as file:
        for chunk in store.open_range(checkpoint.key):
            digest.update(chunk)
            file.write(chunk)
    if digest.hexdigest() != checkpoint.sha256:
        raise Damaged(f"sha256 is {digest.hexdigest()}, not {checkpoint.sha256}")


def _may_pass(error: Exception) -> bool:
    """Whether it may be the store's trouble, not this host's."""
    return isinstance(error, OSError) and error.errno not in FULL_DISK
