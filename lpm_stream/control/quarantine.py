"""The quarantine: rows that cannot be applied wait here with their reason."""

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

import sqlalchemy as sa

from lpm_stream.control import audit
from lpm_stream.control.store import ControlStore
from lpm_stream.control.tables import quarantine
from lpm_stream.errors import QuarantineFullError
from lpm_stream.feed.schema import CHANGE_TYPE, DELETE
from lpm_stream.feed.spec import FeedSpec

Stage = Literal["publish", "deliver"]
_LEFT_OUT = "{}"  # the payload of what stands for rows that are not kept here
_IDS_AT_ONCE = 500  # databases limit the parameters of a statement, SQLite to as few as 999


@dataclass(frozen=True)
class Refused:
    """A row that cannot be applied.

    Attributes:
        company: the company it belongs to; empty where the row does not say.
        version: the commit version it came with.
        stage: where it was refused: by the contract on `publish`, by the database on `deliver`.
        reason: why.
        payload: the row as JSON.
    """

    company: str
    version: int
    stage: Stage
    reason: str
    payload: str

    def id(self, feed: str) -> str:
        """The same for the same row of the same commit, so that a re-send does not quarantine it twice.

        What stands for rows that are left out has one for each company.
        """
        version = "" if self.payload == _LEFT_OUT else self.version
        text = f"{feed}\0{self.company}\0{version}\0{self.stage}\0{self.payload}"
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Entry:
    """A row in quarantine.

    Attributes:
        id: 64 hex digits.
        row: what was refused.
        created_at: when.
    """

    id: str
    row: Refused
    created_at: datetime


def withheld(company: str, version: int, rows: int) -> Refused:
    """Stands for a company's whole version that is not published, as it has too many rows that cannot be."""
    reason = (
        f"{rows:,} rows of this version break the contract, more than may go to quarantine: nothing of it is "
        f"published for this company; mend the table or the contract, then resync the company"
    )
    return Refused(company, version, "publish", reason, _LEFT_OUT)


def of_nobody(version: int, rows: int) -> Refused:
    """Stands for rows that say no company and are too many to be kept."""
    reason = (
        f"{rows:,} more rows of this version belong to nobody, and perhaps some of earlier ones; they are in the "
        f"table still"
    )
    return Refused("", version, "publish", reason, _LEFT_OUT)


def withheld_version(store: ControlStore, feed: str, company: str, after: int) -> int | None:
    """A version behind another that was not published for a company, too much of it being broken."""
    here = (quarantine.c.feed == feed) & (quarantine.c.company == company) & (quarantine.c.version > after)
    marker = (quarantine.c.stage == "publish") & (quarantine.c.payload == _LEFT_OUT)
    with store.read() as connection:
        return connection.execute(sa.select(sa.func.min(quarantine.c.version)).where(here & marker)).scalar()


def add(connection: sa.Connection, feed: str, refused: Sequence[Refused]) -> int:
    """Stores refused rows and returns how many were new; what stands for others has their newest version."""
    rows = {row.id(feed): row for row in refused}
    known = _known(connection, list(rows))
    for row_id in known:
        if (row := rows[row_id]).payload == _LEFT_OUT:
            older = (quarantine.c.id == row_id) & (quarantine.c.version < row.version)
            connection.execute(quarantine.update().where(older).values(version=row.version, reason=row.reason))
    new = [_values(feed, row_id, row) for row_id, row in rows.items() if row_id not in known]
    if new:
        connection.execute(quarantine.insert(), new)
    return len(new)


def _known(connection: sa.Connection, ids: list[str]) -> set[str]:
    known: set[str] = set()
    for start in range(0, len(ids), _IDS_AT_ONCE):
        some = quarantine.c.id.in_(ids[start : start + _IDS_AT_ONCE])
        known.update(connection.execute(sa.select(quarantine.c.id).where(some)).scalars())
    return known


def require_room(connection: sa.Connection, spec: FeedSpec, company: str, loading_version: int = 0) -> None:
    """Makes a transaction that has added rows of a company conditional on the feed's limits.

    Args:
        connection: the transaction.
        spec: the feed.
        company: whose rows.
        loading_version: while the company is loaded from the table at that version; its rows of earlier versions,
            which are about to go, do not count then, nor does how many come at once.

    Raises:
        QuarantineFullError: if there are more than the feed allows.
    """
    held, lately = _counts(connection, spec.name, loading_version).get(company, (0, 0))
    if _is_full(spec, held, 0 if loading_version else lately):
        raise QuarantineFullError(
            f"company {company!r} would have {held:,} rows in quarantine, {lately:,} of them new within a minute "
            f"(limits {spec.quarantine_rows:,} and {spec.quarantine_rows_per_minute:,}): see "
            f"lpm-stream quarantine list, mend the cause, then replay or discard them"
        )


def full(connection: sa.Connection, spec: FeedSpec) -> frozenset[str]:
    """The companies that have more rows in quarantine than the feed allows; "" for what belongs to nobody."""
    found = _counts(connection, spec.name, 0)
    return frozenset(company for company, counts in found.items() if _is_full(spec, *counts))


def _is_full(spec: FeedSpec, held: int, lately: int) -> bool:
    return held > spec.quarantine_rows or lately > spec.quarantine_rows_per_minute


def _counts(connection: sa.Connection, feed: str, since_version: int) -> dict[str, tuple[int, int]]:
    """Company to the number of its rows, and of those that came within the last minute."""
    a_minute_ago = datetime.now(UTC) - timedelta(minutes=1)
    lately = sa.func.sum(sa.case((quarantine.c.created_at > a_minute_ago, 1), else_=0))
    query = (
        sa.select(quarantine.c.company, sa.func.count(), lately)
        .where(quarantine.c.feed == feed, quarantine.c.version >= since_version)
        .group_by(quarantine.c.company)
    )
    return {company: (held, int(recent)) for company, held, recent in connection.execute(query)}


def _values(feed: str, row_id: str, row: Refused) -> dict[str, object]:
    return {
        "id": row_id,
        "feed": feed,
        "company": row.company,
        "version": row.version,
        "stage": row.stage,
        "reason": row.reason[:2000],
        "payload": row.payload,
        "created_at": datetime.now(UTC),
    }


def entries(
    store: ControlStore,
    feed: str,
    company: str | None = None,
    *,
    id_prefix: str = "",
    limit: int | None = None,
) -> list[Entry]:
    """Rows in quarantine, the oldest first.

    Args:
        store: the control store.
        feed: the feed's name.
        company: only this company's; "" are those that say no company.
        id_prefix: only those whose id begins so.
        limit: at most so many.
    """
    query = sa.select(quarantine).where(quarantine.c.feed == feed)
    if company is not None:
        query = query.where(quarantine.c.company == company)
    if id_prefix:
        query = query.where(quarantine.c.id.startswith(id_prefix, autoescape=True))
    query = query.order_by(quarantine.c.created_at, quarantine.c.id).limit(limit)
    with store.read() as connection:
        rows = connection.execute(query).all()
    return [
        Entry(row.id, Refused(row.company, row.version, row.stage, row.reason, row.payload), row.created_at)
        for row in rows
    ]


def remove(connection: sa.Connection, ids: Sequence[str]) -> int:
    """Removes rows; returns how many there were."""
    removed = 0
    for start in range(0, len(ids), _IDS_AT_ONCE):
        some = quarantine.c.id.in_(ids[start : start + _IDS_AT_ONCE])
        removed += connection.execute(quarantine.delete().where(some)).rowcount
    return removed


def discard(store: ControlStore, feed: str, chosen: Sequence[Entry]) -> int:
    """Removes rows for good, as somebody asked for; returns how many of them were still there."""
    with store.write() as connection:
        there = _known(connection, [entry.id for entry in chosen])
        remove(connection, list(there))
        for company, rows in Counter(entry.row.company for entry in chosen if entry.id in there).items():
            audit.record(connection, "discard", company or None, {"feed": feed, "rows": rows})
    return len(there)


def set_reasons(connection: sa.Connection, reasons: Mapping[str, str]) -> None:
    """Stores why rows, given by their ids, are refused now."""
    if reasons:
        row = quarantine.c.id == sa.bindparam("row_id")
        values = [{"row_id": row_id, "reason": reason[:2000]} for row_id, reason in reasons.items()]
        connection.execute(quarantine.update().where(row), values)


def remove_through(
    connection: sa.Connection, feed: str, company: str, version: int, *, but: Collection[str]
) -> None:
    """Removes a company's rows up to a version: it was loaded from the table as of that.

    Args:
        connection: a transaction.
        feed: the feed's name.
        company: whose rows.
        version: the table's version.
        but: ids of rows that stay: what was found wrong in loading.
    """
    here = (quarantine.c.feed == feed) & (quarantine.c.company == company) & (quarantine.c.version <= version)
    found = connection.execute(sa.select(quarantine.c.id).where(here)).scalars()
    remove(connection, [row_id for row_id in found if row_id not in but])


def counts(store: ControlStore, feed: str) -> dict[str, int]:
    """Company to the number of its rows in quarantine."""
    query = (
        sa.select(quarantine.c.company, sa.func.count())
        .where(quarantine.c.feed == feed)
        .group_by(quarantine.c.company)
    )
    with store.read() as connection:
        return dict(connection.execute(query).all())


def payload_of(row: Mapping[str, object]) -> str:
    """A row as JSON, for the quarantine; dates and instants as ISO 8601.

    Of a change, `_change_type` is left out, unless that is a delete: a row is the same however it has come.
    """
    kept = {name: value for name, value in row.items() if name != CHANGE_TYPE or value == DELETE}
    return json.dumps(kept, default=str, ensure_ascii=False)
