"""The history of how legacy files compared."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Adds it."""
    op.create_table(
        "reconciliations",
        sa.Column("feed", sa.String(length=63), nullable=False),
        sa.Column("company", sa.Unicode(length=450), nullable=False),
        sa.Column("period_start", sa.DateTime(), nullable=False),
        sa.Column("period_end", sa.DateTime(), nullable=False),
        sa.Column("compared_at", sa.DateTime(), nullable=False),
        sa.Column("verdict", sa.String(length=10), nullable=False),
        sa.Column("file", sa.Unicode(length=1000), nullable=True),
        sa.Column("file_size", sa.BigInteger(), nullable=False),
        sa.Column("file_modified", sa.DateTime(), nullable=True),
        sa.Column("rows_in_file", sa.BigInteger(), nullable=False),
        sa.Column("rows_in_table", sa.BigInteger(), nullable=False),
        sa.Column("missing", sa.BigInteger(), nullable=False),
        sa.Column("extra", sa.BigInteger(), nullable=False),
        sa.Column("different", sa.BigInteger(), nullable=False),
        sa.Column("broken", sa.BigInteger(), nullable=False),
        sa.Column("explained", sa.BigInteger(), nullable=False),
        sa.Column("problem", sa.Unicode(length=2000), nullable=True),
        sa.Column("details", sa.UnicodeText(), nullable=False),
        sa.PrimaryKeyConstraint("feed", "company", "period_start"),
    )


def downgrade() -> None:
    """Removes it."""
    op.drop_table("reconciliations")
