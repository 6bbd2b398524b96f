"""The control store's tables. A change here needs a migration in `control/migrations/versions`."""

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from lpm_stream.feed.spec import LONGEST_COMPANY_ID

metadata = sa.MetaData()

_NAME = sa.String(63)


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """An instant: stored in UTC without zone, handed out with it."""

    impl = sa.DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> Any:  # noqa: ARG002
        """To storage."""
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> datetime | None:  # noqa: ARG002
        """From storage."""
        return None if value is None else value.replace(tzinfo=UTC)


class CompanyId(sa.types.TypeDecorator[str]):
    """A company's id as far as it can be one.

    The rows of a source may name companies that nobody can register, and they are stored here all the same: not
    every database has room for such an id, or for a NUL in it.
    """

    impl = sa.Unicode(LONGEST_COMPANY_ID)
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:  # noqa: ARG002
        """To storage."""
        return None if value is None else value[:LONGEST_COMPANY_ID].replace("\0", "\ufffd")


_ID = CompanyId()

companies = sa.Table(
    "companies",
    metadata,
    sa.Column("company", _ID, primary_key=True),
    sa.Column("database_url", sa.Unicode(2000)),
    sa.Column("registered_at", UtcDateTime, nullable=False),
    sa.Column("name", sa.Unicode(200), nullable=False, server_default=""),
    sa.Column("feeds", sa.Unicode(2000), nullable=False, server_default="[]"),
    sa.Column("groups", sa.Unicode(2000), nullable=False, server_default='["all"]'),
    sa.Column("slo_seconds", sa.Float),
    sa.Column("state", sa.String(12), nullable=False, server_default="active"),
    sa.Column("labels", sa.UnicodeText, nullable=False, server_default="{}"),
    sa.Column("contacts", sa.UnicodeText, nullable=False, server_default="[]"),
    sa.Column("generation", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("load_generation", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("applied_generation", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("onboarded_at", UtcDateTime),
    sa.Column("changed_at", UtcDateTime),
)

cursors = sa.Table(
    "cursors",
    metadata,
    sa.Column("feed", _NAME, primary_key=True),
    sa.Column("table_id", sa.String(64), nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("newest_version", sa.BigInteger, nullable=False),
    sa.Column("held_columns", sa.Unicode(4000), nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("commit_seen", sa.String(64), nullable=False, server_default=""),
    sa.Column("taken_columns", sa.UnicodeText, nullable=False, server_default="{}"),
)

published = sa.Table(
    "published",
    metadata,
    sa.Column("feed", _NAME, primary_key=True),
    sa.Column("company", _ID, primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
)

checkpoints = sa.Table(
    "checkpoints",
    metadata,
    sa.Column("feed", _NAME, primary_key=True),
    sa.Column("partition", sa.Integer, primary_key=True),
    sa.Column("sequence_number", sa.BigInteger, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
)

deliveries = sa.Table(
    "deliveries",
    metadata,
    sa.Column("feed", _NAME, primary_key=True),
    sa.Column("company", _ID, primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("sequence_number", sa.BigInteger, nullable=False),
    sa.Column("committed_at", UtcDateTime, nullable=False),
    sa.Column("applied_at", UtcDateTime, nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("partition", sa.Integer, nullable=False, server_default="-1"),
)

parked = sa.Table(
    "parked",
    metadata,
    sa.Column("feed", _NAME, primary_key=True),
    sa.Column("company", _ID, primary_key=True),
    sa.Column("partition", sa.Integer, nullable=False),
    sa.Column("sequence_number", sa.BigInteger, nullable=False),
    sa.Column("committed_at", UtcDateTime, nullable=False),
    sa.Column("since", UtcDateTime, nullable=False),
    sa.Column("reason", sa.Unicode(2000), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("next_try_at", UtcDateTime, nullable=False),
    sa.Column("kind", sa.String(10), nullable=False, server_default="fault"),
    sa.Column("waiting", sa.BigInteger, nullable=False, server_default="0"),
)

backfills = sa.Table(
    "backfills",
    metadata,
    sa.Column("feed", _NAME, primary_key=True),
    sa.Column("company", _ID, primary_key=True),
    sa.Column("id", sa.String(32), nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("total_rows", sa.BigInteger, nullable=False),
    sa.Column("started_at", UtcDateTime, nullable=False),
    sa.Column("finished_at", UtcDateTime),
    sa.Column("outcome", sa.Unicode(2000), nullable=False),
    sa.Column("loaded_version", sa.BigInteger, nullable=False),
    sa.Column("generation", sa.BigInteger, nullable=False, server_default="0"),
)

ledger = sa.Table(
    "ledger",
    metadata,
    sa.Column("feed", _NAME, primary_key=True),
    sa.Column("company", _ID, primary_key=True),
    sa.Column("minute", UtcDateTime, primary_key=True),
    sa.Column("changes", sa.BigInteger, nullable=False),
    sa.Column("latency", sa.Text, nullable=False),
    sa.Index("ix_ledger_feed_minute", "feed", "minute"),
)

ledger_days = sa.Table(
    "ledger_days",
    metadata,
    sa.Column("feed", _NAME, primary_key=True),
    sa.Column("company", _ID, primary_key=True),
    sa.Column("day", UtcDateTime, primary_key=True),
    sa.Column("changes", sa.BigInteger, nullable=False),
    sa.Column("latency", sa.Text, nullable=False),
)

ledger_totals = sa.Table(
    "ledger_totals",
    metadata,
    sa.Column("feed", _NAME, primary_key=True),
    sa.Column("company", _ID, primary_key=True),
    sa.Column("changes", sa.BigInteger, nullable=False),
)

quarantine = sa.Table(
    "quarantine",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("feed", _NAME, nullable=False),
    sa.Column("company", _ID, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("stage", sa.String(10), nullable=False),
    sa.Column("reason", sa.Unicode(2000), nullable=False),
    sa.Column("payload", sa.UnicodeText, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Index("ix_quarantine_feed_company", "feed", "company"),
)

unknown_companies = sa.Table(
    "unknown_companies",
    metadata,
    sa.Column("feed", _NAME, primary_key=True),
    sa.Column("company", _ID, primary_key=True),
    sa.Column("changes", sa.BigInteger, nullable=False),
    sa.Column("first_version", sa.BigInteger, nullable=False),
    sa.Column("last_version", sa.BigInteger, nullable=False),
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("name", sa.String(100), primary_key=True),
    sa.Column("holder", sa.Unicode(200), nullable=False),
    sa.Column("fence", sa.BigInteger, nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False),
)

reconciliations = sa.Table(
    "reconciliations",
    metadata,
    sa.Column("feed", _NAME, primary_key=True),
    sa.Column("company", _ID, primary_key=True),
    sa.Column("period_start", UtcDateTime, primary_key=True),
    sa.Column("period_end", UtcDateTime, nullable=False),
    sa.Column("compared_at", UtcDateTime, nullable=False),
    sa.Column("verdict", sa.String(10), nullable=False),
    sa.Column("file", sa.Unicode(1000)),
    sa.Column("file_size", sa.BigInteger, nullable=False),
    sa.Column("file_modified", UtcDateTime),
    sa.Column("rows_in_file", sa.BigInteger, nullable=False),
    sa.Column("rows_in_table", sa.BigInteger, nullable=False),
    sa.Column("missing", sa.BigInteger, nullable=False),
    sa.Column("extra", sa.BigInteger, nullable=False),
    sa.Column("different", sa.BigInteger, nullable=False),
    sa.Column("broken", sa.BigInteger, nullable=False),
    sa.Column("explained", sa.BigInteger, nullable=False),
    sa.Column("problem", sa.Unicode(2000)),
    sa.Column("details", sa.UnicodeText, nullable=False),
)

raised_causes = sa.Table(
    "raised_causes",
    metadata,
    sa.Column("feed", _NAME, primary_key=True),
    sa.Column("kind", sa.String(100), primary_key=True),
    sa.Column("company", _ID, primary_key=True),
    sa.Column("what", sa.Unicode(2000), nullable=False),
    sa.Column("since", UtcDateTime, nullable=False),
    sa.Column("affected", sa.Unicode(2000), nullable=False),
    sa.Column("likely", sa.Unicode(2000), nullable=False),
    sa.Column("command", sa.Unicode(2000), nullable=False),
    sa.Column("page", sa.Unicode(2000), nullable=False),
)

incidents = sa.Table(
    "incidents",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("feed", _NAME, nullable=False),
    sa.Column("kind", sa.String(100), nullable=False),
    sa.Column("company", _ID, nullable=False),
    sa.Column("what", sa.Unicode(2000), nullable=False),
    sa.Column("since", UtcDateTime, nullable=False),
    sa.Column("affected", sa.Unicode(2000), nullable=False),
    sa.Column("likely", sa.Unicode(2000), nullable=False),
    sa.Column("command", sa.Unicode(2000), nullable=False),
    sa.Column("page", sa.Unicode(2000), nullable=False),
    sa.Column("opened_at", UtcDateTime, nullable=False),
    sa.Column("gone_since", UtcDateTime),
    sa.Column("resolved_at", UtcDateTime),
    sa.Column("acknowledged_at", UtcDateTime),
    sa.Column("told_at", UtcDateTime),
    sa.Column("told", sa.Unicode(2000), nullable=False),
    sa.Index("ix_incidents_feed_resolved_at", "feed", "resolved_at"),
)

silences = sa.Table(
    "silences",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("feed", _NAME, nullable=False),
    sa.Column("kind", sa.String(100)),
    sa.Column("company", _ID),
    sa.Column("until", UtcDateTime, nullable=False),
)

notifications = sa.Table(
    "notifications",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("feed", _NAME, nullable=False),
    sa.Column("channel", sa.Unicode(400), nullable=False),
    sa.Column("incident", sa.String(32), nullable=False),
    sa.Column("event", sa.String(10), nullable=False),
    sa.Column("title", sa.Unicode(500), nullable=False),
    sa.Column("body", sa.UnicodeText, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("sent_at", UtcDateTime),
    sa.Index("ix_notifications_feed_channel", "feed", "channel", "sent_at"),
)

channels = sa.Table(
    "channels",
    metadata,
    sa.Column("feed", _NAME, primary_key=True),
    sa.Column("channel", sa.Unicode(400), primary_key=True),
    sa.Column("claim", sa.String(32)),
    sa.Column("claimed_until", UtcDateTime, nullable=False),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("next_try_at", UtcDateTime, nullable=False),
    sa.Column("problem", sa.Unicode(2000)),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at", sa.String(32), nullable=False),  # as text, since the hash covers just what is stored
    sa.Column("who", sa.Unicode(400), nullable=False),
    sa.Column("action", sa.String(63), nullable=False),
    sa.Column("company", _ID),
    sa.Column("details", sa.UnicodeText, nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
    sa.Index("ix_audit_company", "company"),
)
