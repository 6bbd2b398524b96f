"""What the registry knows of companies: names, feeds, entitlements, state."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_ADDED = ("name", "feeds", "groups", "slo_seconds", "state", "labels", "contacts", "generation", "load_generation")


def upgrade() -> None:
    """Adds it; companies that there are keep getting every column."""
    everything = '["all"]'
    op.add_column("companies", sa.Column("name", sa.Unicode(length=200), nullable=False, server_default=""))
    op.add_column("companies", sa.Column("feeds", sa.Unicode(length=2000), nullable=False, server_default="[]"))
    op.add_column(
        "companies", sa.Column("groups", sa.Unicode(length=2000), nullable=False, server_default=everything)
    )
    op.add_column("companies", sa.Column("slo_seconds", sa.Float(), nullable=True))
    op.add_column("companies", sa.Column("state", sa.String(length=12), nullable=False, server_default="active"))
    op.add_column("companies", sa.Column("labels", sa.UnicodeText(), nullable=False, server_default="{}"))
    op.add_column("companies", sa.Column("contacts", sa.UnicodeText(), nullable=False, server_default="[]"))
    op.add_column("companies", sa.Column("generation", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("companies", sa.Column("load_generation", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("companies", sa.Column("onboarded_at", sa.DateTime(), nullable=True))
    op.add_column("companies", sa.Column("changed_at", sa.DateTime(), nullable=True))
    op.execute("UPDATE companies SET onboarded_at = registered_at")
    op.add_column("backfills", sa.Column("generation", sa.BigInteger(), nullable=False, server_default="0"))


def downgrade() -> None:
    """Removes it."""
    op.drop_column("backfills", "generation")
    for name in (*_ADDED, "onboarded_at", "changed_at"):
        op.drop_column("companies", name)
