"""Idle workers look for jobs themselves, so no row says when one was last told of it.

The service as it was before cannot work on this schema: stop all of it first.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index("ix_jobs_rung", "jobs")
    op.drop_column("jobs", "rung_at")


def downgrade() -> None:
    # 1970, so that the service as it was before rings for all that may run. The default stays,
    # because SQLite cannot take it away
    op.add_column("jobs", sa.Column("rung_at", sa.BigInteger, nullable=False, server_default="0"))
    where = sa.text("state = 'queued' AND waits_for IS NULL")
    op.create_index(
        "ix_jobs_rung",
        "jobs",
        ["state", "rung_at", "id"],
        sqlite_where=where,
        postgresql_where=where,
    )
