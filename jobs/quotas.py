"""How much one owner may have at a time. Without API keys there are no owners and no limits.

Every function works in the caller's transaction.
"""

from sqlalchemy import Connection, Select, func, or_, select, update

from jobs.clock import now
from jobs.errors import QuotaExceeded
from jobs.schema import datasets, jobs, leaders
from jobs.settings import Settings
from jobs.states import HELD, State

QUOTAS = "quotas"  # the task in `leaders` whose row is the lock


def check_queue(connection: Connection, owner: str, number: int, settings: Settings) -> None:
    """Refuse `number` further jobs to an owner who has many waiting already."""
    limit = settings.max_queued_jobs_per_owner
    if limit is None or not owner:
        return
    lock_all(connection)
    waiting = select(func.count()).where(jobs.c.owner == owner, jobs.c.state == State.QUEUED)
    count = connection.execute(waiting).scalar_one()
    if count + number > limit:
        raise QuotaExceeded(f"{count} jobs of {owner} wait in the queue; legal: at most {limit}")


def check_upload(connection: Connection, owner: str, size_bytes: int, settings: Settings) -> None:
    """Refuse a further dataset to an owner whose datasets are large already."""
    limit = settings.max_dataset_bytes_per_owner
    if limit is None or not owner:
        return
    lock_all(connection)
    kept = select(func.coalesce(func.sum(datasets.c.size_bytes), 0)).where(
        datasets.c.owner == owner,
        # those that are still on their way count too
        or_(datasets.c.deleted_at.is_(None), datasets.c.deleted_at > now()),
    )
    used_bytes = int(connection.execute(kept).scalar_one())
    if used_bytes + size_bytes > limit:
        raise QuotaExceeded(
            f"the datasets of {owner} have {used_bytes} bytes, with this one "
            f"{used_bytes + size_bytes}; legal: at most {limit}"
        )


def owners_running(limit: int) -> Select[tuple[str]]:
    """Owners who have `limit` jobs or more running."""
    return (
        select(jobs.c.owner)
        .where(jobs.c.state.in_(HELD), jobs.c.lease_until.is_not(None), jobs.c.owner != "")
        .group_by(jobs.c.owner)
        .having(func.count() >= limit)
    )


def lock_all(connection: Connection) -> None:
    """Let no other transaction count beside this one: both would see room for one more."""
    connection.execute(update(leaders).where(leaders.c.task == QUOTAS).values(worker_id=""))
