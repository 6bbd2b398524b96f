"""What continuity and backfills need: epochs, what was published for whom, kinds of parking, backfills."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Adds it."""
    op.add_column("cursors", sa.Column("epoch", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("parked", sa.Column("kind", sa.String(length=10), nullable=False, server_default="fault"))
    op.add_column("parked", sa.Column("waiting", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("deliveries", sa.Column("epoch", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("deliveries", sa.Column("partition", sa.Integer(), nullable=False, server_default="-1"))
    op.create_table(
        "published",
        sa.Column("feed", sa.String(length=63), nullable=False),
        sa.Column("company", sa.Unicode(length=450), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("feed", "company"),
    )
    op.create_table(
        "backfills",
        sa.Column("feed", sa.String(length=63), nullable=False),
        sa.Column("company", sa.Unicode(length=450), nullable=False),
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("total_rows", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.DateTime(), nullable=False),
        sa.Column("finished_at", sa.DateTime(), nullable=True),
        sa.Column("outcome", sa.Unicode(length=2000), nullable=False),
        sa.Column("loaded_version", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("feed", "company"),
    )


def downgrade() -> None:
    """Removes it."""
    op.drop_table("backfills")
    op.drop_table("published")
    op.drop_column("deliveries", "partition")
    op.drop_column("deliveries", "epoch")
    op.drop_column("parked", "waiting")
    op.drop_column("parked", "kind")
    op.drop_column("cursors", "epoch")
