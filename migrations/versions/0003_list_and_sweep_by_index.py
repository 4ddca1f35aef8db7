"""Lists by label and by model, claims, and the search for who waits unheard, read an index."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

FILL_SQLITE = """
    INSERT INTO job_labels (job_id, key, value)
    SELECT jobs.id, each.key, each.value FROM jobs, json_each(jobs.labels) AS each
"""
FILL_POSTGRESQL = """
    INSERT INTO job_labels (job_id, key, value)
    SELECT jobs.id, each.key, each.value FROM jobs, jsonb_each_text(jobs.labels) AS each
"""


def upgrade() -> None:
    op.create_table(
        "job_labels",
        sa.Column("job_id", sa.String(40), nullable=False),
        sa.Column("key", sa.String(63), nullable=False),
        sa.Column("value", sa.String(255), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "key", name=op.f("pk_job_labels")),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["jobs.id"],
            name=op.f("fk_job_labels_job_id_jobs"),
            ondelete="CASCADE",
        ),
    )
    is_postgresql = op.get_context().dialect.name == "postgresql"
    op.execute(FILL_POSTGRESQL if is_postgresql else FILL_SQLITE)
    op.create_index("ix_job_labels_key_value_job_id", "job_labels", ["key", "value", "job_id"])
    op.create_index("ix_jobs_model_id", "jobs", [sa.text("(input ->> 'model')"), "id"])
    op.drop_index("ix_jobs_claim", "jobs")
    of_queued("ix_jobs_claim", "state", "priority DESC", "id")
    of_queued("ix_jobs_rung", "state", "rung_at", "id")


def of_queued(name: str, *columns: str) -> None:
    where = sa.text("state = 'queued'")
    op.create_index(
        name,
        "jobs",
        [sa.text(column) if " " in column else column for column in columns],
        sqlite_where=where,
        postgresql_where=where,
    )


def downgrade() -> None:
    op.drop_index("ix_jobs_rung", "jobs")
    op.drop_index("ix_jobs_claim", "jobs")
    of_queued("ix_jobs_claim", "priority DESC", "id")
    op.drop_index("ix_jobs_model_id", "jobs")
    op.drop_table("job_labels")
