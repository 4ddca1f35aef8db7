"""How long the longest row of a dataset is, and where a dataset came from that was not uploaded."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    json = sa.JSON().with_variant(JSONB(), "postgresql")
    op.add_column("datasets", sa.Column("longest_row_characters", sa.BigInteger))
    op.add_column("datasets", sa.Column("origin", json))


def downgrade() -> None:
    op.drop_column("datasets", "origin")
    op.drop_column("datasets", "longest_row_characters")
