"""How many rows of a dataset are chats, which only a model with a chat template reads."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("datasets", sa.Column("chats", sa.BigInteger))


def downgrade() -> None:
    op.drop_column("datasets", "chats")
