"""Which commit the cursor is at, not only its number."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Adds it."""
    op.add_column("cursors", sa.Column("commit_seen", sa.String(length=64), nullable=False, server_default=""))


def downgrade() -> None:
    """Removes it."""
    op.drop_column("cursors", "commit_seen")
