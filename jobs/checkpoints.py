"""What a job that has not ended has reached, so that its next attempt begins behind it.

Of a quantize job each finished block; of a finetune job its latest step, as one whole state.

A row stands for an object in the artifact store. An attempt reads rows, never folders: an object
without a row was not there in time. Every function works in the caller's transaction.
"""

from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select

from jobs import leases
from jobs.artifacts import Stored
from jobs.schema import checkpoints


@dataclass(frozen=True)
class Checkpoint:
    """One finished block, or the state behind a step."""

    block: int  # from 0; or the step
    attempt: int  # that finished it
    key: str  # of its file in the artifact store
    size_bytes: int
    sha256: str


def record(
    connection: Connection, job_id: str, attempt: int, block: int, key: str, stored: Stored
) -> None:
    """Note a block that this attempt finished and stored. Raises `LeaseLost`.

    Blocks from this one on that are noted already go: an attempt that had to start over does not
    continue with what it replaced.
    """
    _note(connection, job_id, attempt, block, key, stored, instead_of=block)


def replace(
    connection: Connection, job_id: str, attempt: int, step: int, key: str, stored: Stored
) -> None:
    """Note the state behind a step, in place of what was noted before. Raises `LeaseLost`."""
    _note(connection, job_id, attempt, step, key, stored, instead_of=0)


def _note(
    connection: Connection,
    job_id: str,
    attempt: int,
    block: int,
    key: str,
    stored: Stored,
    *,
    instead_of: int,
) -> None:
    """In place of what there is from `instead_of` on."""
    drop(connection, job_id, attempt, instead_of)
    values = {"job_id": job_id, "block": block, "attempt": attempt, "key": key} | vars(stored)
    connection.execute(insert(checkpoints).values(values))


def drop(connection: Connection, job_id: str, attempt: int, block: int) -> None:
    """Forget the blocks from this one on: they are of no use. Raises `LeaseLost`."""
    leases.record(connection, job_id, attempt)  # the fence
    connection.execute(
        delete(checkpoints).where(checkpoints.c.job_id == job_id, checkpoints.c.block >= block)
    )


def of_job(connection: Connection, job_id: str) -> list[Checkpoint]:
    """The checkpoints of a job, in the order of its blocks."""
    columns = [column for column in checkpoints.c if column.name != "job_id"]
    query = select(*columns).where(checkpoints.c.job_id == job_id).order_by(checkpoints.c.block)
    return [Checkpoint(**row._mapping) for row in connection.execute(query)]


def forget(connection: Connection, job_id: str) -> None:
    """Delete the rows of a job that has ended, once their objects are gone."""
    connection.execute(delete(checkpoints).where(checkpoints.c.job_id == job_id))
