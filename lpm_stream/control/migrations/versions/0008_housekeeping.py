"""The ledger per day and in total, and a way to its newest minutes."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Adds them; the totals are those of the minutes that there are."""
    op.create_table(
        "ledger_days",
        sa.Column("feed", sa.String(length=63), nullable=False),
        sa.Column("company", sa.Unicode(length=450), nullable=False),
        sa.Column("day", sa.DateTime(), nullable=False),
        sa.Column("changes", sa.BigInteger(), nullable=False),
        sa.Column("latency", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("feed", "company", "day"),
    )
    op.create_table(
        "ledger_totals",
        sa.Column("feed", sa.String(length=63), nullable=False),
        sa.Column("company", sa.Unicode(length=450), nullable=False),
        sa.Column("changes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("feed", "company"),
    )
    op.create_index("ix_ledger_feed_minute", "ledger", ["feed", "minute"], unique=False)
    op.execute(
        "INSERT INTO ledger_totals (feed, company, changes) "
        "SELECT feed, company, SUM(changes) FROM ledger GROUP BY feed, company"
    )


def downgrade() -> None:
    """Removes them; what was added up per day is lost."""
    op.drop_index("ix_ledger_feed_minute", table_name="ledger")
    op.drop_table("ledger_totals")
    op.drop_table("ledger_days")
