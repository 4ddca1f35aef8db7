"""Jobs that wait for another one; claims and rings look at those that do not.

The way down fails while a job waits: the service as it was before would run it without its base.
Cancel it first.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

QUEUED = "state = 'queued'"
NOT_WAITING = f"{QUEUED} AND waits_for IS NULL"
WAITING = "waits_for IS NOT NULL"


def upgrade() -> None:
    # with its check in the column itself, which SQLite can add to a table as it is
    op.execute(
        "ALTER TABLE jobs ADD COLUMN waits_for VARCHAR(40) "
        f"CONSTRAINT ck_jobs_waits_for CHECK (waits_for IS NULL OR {QUEUED})"
    )
    op.add_column("jobs", sa.Column("made_for", sa.String(40)))
    replace_indexes(NOT_WAITING)
    partial_index("ix_jobs_waits_for", WAITING, "waits_for")


def replace_indexes(condition: str) -> None:
    for name, *columns in (
        ("ix_jobs_claim", "state", "priority DESC", "id"),
        ("ix_jobs_rung", "state", "rung_at", "id"),
    ):
        op.drop_index(name, "jobs")
        partial_index(name, condition, *columns)


def partial_index(name: str, condition: str, *columns: str) -> None:
    where = sa.text(condition)
    op.create_index(
        name,
        "jobs",
        [sa.text(column) if " " in column else column for column in columns],
        sqlite_where=where,
        postgresql_where=where,
    )


def downgrade() -> None:
    waiting = sa.select(sa.func.count()).select_from(sa.table("jobs")).where(sa.text(WAITING))
    if count := op.get_bind().execute(waiting).scalar_one():
        raise RuntimeError(f"{count} jobs wait for another one; cancel them first")
    op.drop_index("ix_jobs_waits_for", "jobs")
    replace_indexes(QUEUED)
    op.drop_column("jobs", "made_for")
    op.drop_column("jobs", "waits_for")
