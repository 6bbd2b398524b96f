"""How far the drains are: the cursor of publish, the checkpoints of deliver, and what was seen of companies."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import sqlalchemy as sa

from lpm_stream.control.store import ControlStore, upsert, upsert_all
from lpm_stream.control.tables import (
    backfills,
    checkpoints,
    companies,
    cursors,
    deliveries,
    published,
    unknown_companies,
)


@dataclass(frozen=True)
class Cursor:
    """How far a feed is published.

    Attributes:
        table_id: of the table that the versions belong to.
        version: the last version fully published.
        newest_version: the table's newest version when last looked at.
        held_columns: source columns that the schema policy holds back.
        epoch: of these versions; grows when the cursor is set anew.
        commit_seen: a commit up to there, as `DeltaSource.commit_seen` names it; if that has become another one,
            the table was set back and has grown again.
        taken_columns: source columns that the contract lacks and the schema policy has taken in, with the names of
            their types.
    """

    table_id: str
    version: int
    newest_version: int
    held_columns: tuple[str, ...] = ()
    epoch: int = 0
    commit_seen: str = ""
    taken_columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Delivered:
    """The newest that a company's database is known to have applied."""

    epoch: int
    version: int
    partition: int
    sequence_number: int
    committed_at: datetime
    applied_at: datetime


@dataclass(frozen=True)
class Unknown:
    """Changes seen for a company that nobody has registered."""

    company: str
    changes: int
    first_version: int
    last_version: int


def read_cursor(store: ControlStore, feed: str) -> Cursor | None:
    """The feed's cursor, None before its first publish."""
    with store.read() as connection:
        row = connection.execute(sa.select(cursors).where(cursors.c.feed == feed)).one_or_none()
    if row is None:
        return None
    held = tuple(row.held_columns.split(",")) if row.held_columns else ()
    taken = json.loads(row.taken_columns)
    return Cursor(row.table_id, row.version, row.newest_version, held, row.epoch, row.commit_seen, taken)


def write_cursor(connection: sa.Connection, feed: str, cursor: Cursor) -> None:
    """Stores the feed's cursor."""
    values = {
        "table_id": cursor.table_id,
        "version": cursor.version,
        "newest_version": cursor.newest_version,
        "held_columns": ",".join(cursor.held_columns),
        "updated_at": datetime.now(UTC),
        "epoch": cursor.epoch,
        "commit_seen": cursor.commit_seen,
        "taken_columns": json.dumps(dict(cursor.taken_columns)),
    }
    upsert(connection, cursors, {"feed": feed}, values)


def read_published(store: ControlStore, feed: str) -> dict[str, int]:
    """Company to the last version that was published for it."""
    with store.read() as connection:
        rows = connection.execute(sa.select(published).where(published.c.feed == feed)).all()
    return {row.company: row.version for row in rows}


def write_published(connection: sa.Connection, feed: str, versions: Mapping[str, int]) -> None:
    """Stores the last version that was published for each of these companies."""
    keys = [{"feed": feed, "company": company} for company in versions]
    upsert_all(connection, published, keys, [{"version": version} for version in versions.values()])


def forget_published(connection: sa.Connection, feed: str) -> None:
    """Forgets what was published: versions of an earlier epoch say nothing about those to come."""
    connection.execute(published.delete().where(published.c.feed == feed))


def raise_published(connection: sa.Connection, feed: str, company: str, epoch: int, version: int) -> None:
    """Stores that a company has a version from the table; not one of another epoch, or in place of a later one."""
    now = connection.execute(sa.select(cursors.c.epoch).where(cursors.c.feed == feed)).scalar()
    if epoch != (now or 0):
        return
    same = (published.c.feed == feed) & (published.c.company == company)
    known = connection.execute(sa.select(published.c.version).where(same).with_for_update()).scalar()
    if known is None or known < version:
        write_published(connection, feed, {company: version})


def read_checkpoints(store: ControlStore, feed: str) -> dict[int, int]:
    """Partition to the sequence number up to which every company was served or parked."""
    with store.read() as connection:
        rows = connection.execute(sa.select(checkpoints).where(checkpoints.c.feed == feed))
        return {row.partition: row.sequence_number for row in rows}


def write_checkpoints(connection: sa.Connection, feed: str, through: Mapping[int, int]) -> None:
    """Stores partitions' checkpoints."""
    keys = [{"feed": feed, "partition": partition} for partition in through]
    now = datetime.now(UTC)
    values = [{"sequence_number": number, "updated_at": now} for number in through.values()]
    upsert_all(connection, checkpoints, keys, values)


def read_deliveries(store: ControlStore, feed: str) -> dict[str, Delivered]:
    """Company to the newest that its database is known to have applied."""
    with store.read() as connection:
        rows = connection.execute(sa.select(deliveries).where(deliveries.c.feed == feed)).all()
    return {
        row.company: Delivered(
            row.epoch, row.version, row.partition, row.sequence_number, row.committed_at, row.applied_at
        )
        for row in rows
    }


def write_deliveries(connection: sa.Connection, feed: str, delivered: Mapping[str, Delivered]) -> None:
    """Stores what companies' databases have applied."""
    keys = [{"feed": feed, "company": company} for company in delivered]
    upsert_all(connection, deliveries, keys, [vars(newest) for newest in delivered.values()])


def count_unknown(connection: sa.Connection, feed: str, version: int, changes: Mapping[str, int]) -> None:
    """Adds one version's changes of companies that nobody has registered."""
    for company, count in changes.items():
        mine = (unknown_companies.c.feed == feed) & (unknown_companies.c.company == company)
        counted = unknown_companies.update().where(mine, unknown_companies.c.last_version < version)
        values = {"changes": unknown_companies.c.changes + count, "last_version": version}
        if connection.execute(counted.values(values)).rowcount == 0:
            known = connection.execute(sa.select(unknown_companies.c.company).where(mine)).first()
            if known is None:
                first = {"changes": count, "first_version": version, "last_version": version}
                connection.execute(unknown_companies.insert().values(feed=feed, company=company, **first))


def forget_unknown(connection: sa.Connection, feed: str) -> None:
    """Forgets what was counted of companies that nobody had registered: a new epoch begins."""
    connection.execute(unknown_companies.delete().where(unknown_companies.c.feed == feed))


def read_unknown(store: ControlStore, feed: str) -> list[Unknown]:
    """The companies that nobody has registered, those with the most changes first."""
    return _read_unknown(store, feed, ~_registered)


def read_incomplete(store: ControlStore, feed: str) -> dict[str, int]:
    """Registered companies that lack what was published before they were registered, and up to which version.

    A backfill gives them that. After a resync nobody has counted what unregistered companies lack: then all that
    registered since count as lacking it.
    """
    loaded = sa.select(sa.func.max(backfills.c.loaded_version)).where(
        backfills.c.feed == unknown_companies.c.feed, backfills.c.company == unknown_companies.c.company
    )
    lacks = unknown_companies.c.last_version > sa.func.coalesce(loaded.scalar_subquery(), -1)
    found = {one.company: one.last_version for one in _read_unknown(store, feed, _registered & lacks)}
    cursor = read_cursor(store, feed)
    if cursor is None or not cursor.epoch:
        return found
    begun = datetime.fromtimestamp(cursor.epoch / 1000, UTC)
    late = sa.select(companies.c.company).where(
        _served,
        companies.c.registered_at > begun,
        ~sa.exists().where(
            backfills.c.feed == feed, backfills.c.company == companies.c.company, backfills.c.loaded_version >= 0
        ),
    )
    with store.read() as connection:
        return dict.fromkeys(connection.execute(late).scalars(), cursor.version) | found


_served = companies.c.state != "offboarding"
_registered = sa.exists().where(companies.c.company == unknown_companies.c.company, _served)


def _read_unknown(store: ControlStore, feed: str, which: sa.ColumnElement[bool]) -> list[Unknown]:
    table = unknown_companies
    query = sa.select(table).where(table.c.feed == feed, which)
    query = query.order_by(table.c.changes.desc(), table.c.company)
    with store.read() as connection:
        rows: Iterable[sa.Row[tuple[object, ...]]] = connection.execute(query).all()
    return [Unknown(row.company, row.changes, row.first_version, row.last_version) for row in rows]
