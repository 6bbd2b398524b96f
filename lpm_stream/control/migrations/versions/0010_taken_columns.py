"""Which columns that its contract lacks a feed has taken in."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0008"


def upgrade() -> None:
    """Adds it."""
    op.add_column("cursors", sa.Column("taken_columns", sa.UnicodeText(), nullable=False, server_default="{}"))


def downgrade() -> None:
    """Removes it."""
    op.drop_column("cursors", "taken_columns")
