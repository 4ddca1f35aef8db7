"""Datasets of rows to train on, beside texts.

The way down fails while there are any: the service as it was before could not name them. Delete
them first.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TEXTS = "kind IN ('text')"
TEXTS_AND_ROWS = "kind IN ('text', 'rows')"
COUNTS = ("rows", "duplicates")


def upgrade() -> None:
    with op.batch_alter_table("datasets", copy_from=table(TEXTS)) as batch:
        batch.drop_constraint(op.f("ck_datasets_kind"), type_="check")
        for name in COUNTS:
            batch.add_column(sa.Column(name, sa.BigInteger))
        batch.create_check_constraint(op.f("ck_datasets_kind"), TEXTS_AND_ROWS)
        for name in COUNTS:
            batch.create_check_constraint(
                op.f(f"ck_datasets_{name}"), f"(kind = 'rows') = ({name} IS NOT NULL)"
            )


def downgrade() -> None:
    with op.batch_alter_table("datasets", copy_from=table(TEXTS_AND_ROWS, *COUNTS)) as batch:
        for name in ("kind", *COUNTS):
            batch.drop_constraint(op.f(f"ck_datasets_{name}"), type_="check")
        for name in COUNTS:
            batch.drop_column(name)
        batch.create_check_constraint(op.f("ck_datasets_kind"), TEXTS)


def table(kinds: str, *counts: str) -> sa.Table:
    """As it was: SQLite makes it anew, and does not tell by itself which checks it has."""
    found = sa.Table(
        "datasets",
        sa.MetaData(),
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("name", sa.String(200)),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("characters", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("deleted_at", sa.BigInteger),
        *(sa.Column(name, sa.BigInteger) for name in counts),
        sa.CheckConstraint(kinds, name="ck_datasets_kind"),
        *(
            sa.CheckConstraint(
                f"(kind = 'rows') = ({name} IS NOT NULL)", name=f"ck_datasets_{name}"
            )
            for name in counts
        ),
        sa.PrimaryKeyConstraint("id", name="pk_datasets"),
    )
    sa.Index("ix_datasets_owner_id", found.c.owner, found.c.id)
    where = sa.text("deleted_at IS NOT NULL")
    sa.Index("ix_datasets_deleted", found.c.deleted_at, sqlite_where=where, postgresql_where=where)
    return found
