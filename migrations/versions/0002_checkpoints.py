"""Checkpoints: the finished blocks of a job that still runs, and where machines lost it."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("loss_block", sa.Integer))
    op.create_table(
        "checkpoints",
        sa.Column("job_id", sa.String(40), nullable=False),
        sa.Column("block", sa.Integer, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("key", sa.String(700), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "block", name=op.f("pk_checkpoints")),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["jobs.id"],
            name=op.f("fk_checkpoints_job_id_jobs"),
            ondelete="CASCADE",
        ),
    )


def downgrade() -> None:
    op.drop_table("checkpoints")
    op.drop_column("jobs", "loss_block")
