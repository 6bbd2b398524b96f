"""What is wrong, who was told, and what waits to be told."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Adds them."""
    op.create_table(
        "raised_causes",
        sa.Column("feed", sa.String(length=63), nullable=False),
        sa.Column("kind", sa.String(length=100), nullable=False),
        sa.Column("company", sa.Unicode(length=450), nullable=False),
        sa.Column("what", sa.Unicode(length=2000), nullable=False),
        sa.Column("since", sa.DateTime(), nullable=False),
        sa.Column("affected", sa.Unicode(length=2000), nullable=False),
        sa.Column("likely", sa.Unicode(length=2000), nullable=False),
        sa.Column("command", sa.Unicode(length=2000), nullable=False),
        sa.Column("page", sa.Unicode(length=2000), nullable=False),
        sa.PrimaryKeyConstraint("feed", "kind", "company"),
    )
    op.create_table(
        "incidents",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("feed", sa.String(length=63), nullable=False),
        sa.Column("kind", sa.String(length=100), nullable=False),
        sa.Column("company", sa.Unicode(length=450), nullable=False),
        sa.Column("what", sa.Unicode(length=2000), nullable=False),
        sa.Column("since", sa.DateTime(), nullable=False),
        sa.Column("affected", sa.Unicode(length=2000), nullable=False),
        sa.Column("likely", sa.Unicode(length=2000), nullable=False),
        sa.Column("command", sa.Unicode(length=2000), nullable=False),
        sa.Column("page", sa.Unicode(length=2000), nullable=False),
        sa.Column("opened_at", sa.DateTime(), nullable=False),
        sa.Column("gone_since", sa.DateTime(), nullable=True),
        sa.Column("resolved_at", sa.DateTime(), nullable=True),
        sa.Column("acknowledged_at", sa.DateTime(), nullable=True),
        sa.Column("told_at", sa.DateTime(), nullable=True),
        sa.Column("told", sa.Unicode(length=2000), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_incidents_feed_resolved_at", "incidents", ["feed", "resolved_at"], unique=False)
    op.create_table(
        "silences",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("feed", sa.String(length=63), nullable=False),
        sa.Column("kind", sa.String(length=100), nullable=True),
        sa.Column("company", sa.Unicode(length=450), nullable=True),
        sa.Column("until", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "notifications",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("feed", sa.String(length=63), nullable=False),
        sa.Column("channel", sa.Unicode(length=400), nullable=False),
        sa.Column("incident", sa.String(length=32), nullable=False),
        sa.Column("event", sa.String(length=10), nullable=False),
        sa.Column("title", sa.Unicode(length=500), nullable=False),
        sa.Column("body", sa.UnicodeText(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("sent_at", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_notifications_feed_channel", "notifications", ["feed", "channel", "sent_at"], unique=False)
    op.create_table(
        "channels",
        sa.Column("feed", sa.String(length=63), nullable=False),
        sa.Column("channel", sa.Unicode(length=400), nullable=False),
        sa.Column("claim", sa.String(length=32), nullable=True),
        sa.Column("claimed_until", sa.DateTime(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("next_try_at", sa.DateTime(), nullable=False),
        sa.Column("problem", sa.Unicode(length=2000), nullable=True),
        sa.PrimaryKeyConstraint("feed", "channel"),
    )


def downgrade() -> None:
    """Removes them."""
    op.drop_table("channels")
    op.drop_index("ix_notifications_feed_channel", table_name="notifications")
    op.drop_table("notifications")
    op.drop_table("silences")
    op.drop_index("ix_incidents_feed_resolved_at", table_name="incidents")
    op.drop_table("incidents")
    op.drop_table("raised_causes")
