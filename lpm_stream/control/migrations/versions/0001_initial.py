"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Creates all tables."""
    op.create_table(
        "checkpoints",
        sa.Column("feed", sa.String(length=63), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("sequence_number", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("feed", "partition"),
    )
    op.create_table(
        "companies",
        sa.Column("company", sa.Unicode(length=450), nullable=False),
        sa.Column("database_url", sa.Unicode(length=2000), nullable=True),
        sa.Column("registered_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("company"),
    )
    op.create_table(
        "cursors",
        sa.Column("feed", sa.String(length=63), nullable=False),
        sa.Column("table_id", sa.String(length=64), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("newest_version", sa.BigInteger(), nullable=False),
        sa.Column("held_columns", sa.Unicode(length=4000), nullable=False),
        sa.Column("updated_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("feed"),
    )
    op.create_table(
        "deliveries",
        sa.Column("feed", sa.String(length=63), nullable=False),
        sa.Column("company", sa.Unicode(length=450), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("sequence_number", sa.BigInteger(), nullable=False),
        sa.Column("committed_at", sa.DateTime(), nullable=False),
        sa.Column("applied_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("feed", "company"),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("holder", sa.Unicode(length=200), nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "ledger",
        sa.Column("feed", sa.String(length=63), nullable=False),
        sa.Column("company", sa.Unicode(length=450), nullable=False),
        sa.Column("minute", sa.DateTime(), nullable=False),
        sa.Column("changes", sa.BigInteger(), nullable=False),
        sa.Column("latency", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("feed", "company", "minute"),
    )
    op.create_table(
        "parked",
        sa.Column("feed", sa.String(length=63), nullable=False),
        sa.Column("company", sa.Unicode(length=450), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("sequence_number", sa.BigInteger(), nullable=False),
        sa.Column("committed_at", sa.DateTime(), nullable=False),
        sa.Column("since", sa.DateTime(), nullable=False),
        sa.Column("reason", sa.Unicode(length=2000), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_try_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("feed", "company"),
    )
    op.create_table(
        "quarantine",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("feed", sa.String(length=63), nullable=False),
        sa.Column("company", sa.Unicode(length=450), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("stage", sa.String(length=10), nullable=False),
        sa.Column("reason", sa.Unicode(length=2000), nullable=False),
        sa.Column("payload", sa.UnicodeText(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_quarantine_feed_company", "quarantine", ["feed", "company"], unique=False)
    op.create_table(
        "unknown_companies",
        sa.Column("feed", sa.String(length=63), nullable=False),
        sa.Column("company", sa.Unicode(length=450), nullable=False),
        sa.Column("changes", sa.BigInteger(), nullable=False),
        sa.Column("first_version", sa.BigInteger(), nullable=False),
        sa.Column("last_version", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("feed", "company"),
    )


def downgrade() -> None:
    """Drops them."""
    op.drop_table("unknown_companies")
    op.drop_index("ix_quarantine_feed_company", table_name="quarantine")
    op.drop_table("quarantine")
    op.drop_table("parked")
    op.drop_table("ledger")
    op.drop_table("leases")
    op.drop_table("deliveries")
    op.drop_table("cursors")
    op.drop_table("companies")
    op.drop_table("checkpoints")
