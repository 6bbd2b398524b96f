"""Shares: how a feed's deliverers split its partitions between them, or one of them takes all.

A deliverer that shares is a *member*, and has a lease for each partition of its share. Members see one another in
the control store, so each knows how many partitions are its due: it gives up what is more, once it has finished
what is in hand, and takes what nobody has. One that does not share (a sensor's tick, a command) takes the whole
feed under one lease, if nobody has any of it.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from lpm_stream.control import leases
from lpm_stream.control.leases import TTL, is_alive, lease_name
from lpm_stream.control.store import ControlStore
from lpm_stream.control.tables import leases as _table
from lpm_stream.errors import LeaseLostError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Share:
    """What a deliverer has.

    Attributes:
        feed: the feed.
        holder: the deliverer, as `worker_name` names it.
        every: the hub's partitions.
        partitions: those in hand; none if others have all that is not its due.
        fence: for all that is written under it.
        alone: whether it is the whole feed, and not to be shared.
    """

    feed: str
    holder: str
    every: Sequence[int]
    partitions: Sequence[int]
    fence: int
    alone: bool

    @property
    def names(self) -> list[str]:
        """Its leases."""
        whole = lease_name("deliver", self.feed)
        return [whole] if self.alone else [f"{whole}:{partition}" for partition in self.partitions]


def take(store: ControlStore, feed: str, holder: str, partitions: Sequence[int], *, alone: bool) -> Share:
    """Takes what is a deliverer's due and free, and gives up what else it had.

    Args:
        store: the control store.
        feed: the feed.
        holder: who asks, as `worker_name` names it.
        partitions: the hub's partitions.
        alone: take all or nothing.
    """
    now = datetime.now(UTC)
    with store.write() as connection:
        fence = leases.next_fence(connection, now)
        if not alone:
            _join(connection, feed, holder, fence, now)
        others = _held_by_others(connection, feed, holder, now)
        if lease_name("deliver", feed) in others or (alone and others):
            mine: Sequence[int] = ()
        elif alone:
            mine = partitions
        else:
            before = _held_by(connection, feed, holder)
            free = [one for one in partitions if _name(feed, one) not in others]
            due = _due(connection, feed, holder, len(partitions), now)
            mine = sorted(sorted(free, key=lambda one: _name(feed, one) not in before)[:due])
        share = Share(feed, holder, partitions, mine, fence, alone)
        if mine:
            _tell_of_the_dead(connection, share, now)
            whole = _table.c.name == lease_name("deliver", feed)
            overlapping = _of(feed) & (~whole if alone else whole)  # of one that was silent: it is not to go on
            connection.execute(
                _table.update().where(overlapping).values(holder=holder, fence=fence, expires_at=now)
            )
            leases.write(connection, share.names, holder, fence, now)
        given_up = (_table.c.holder == holder) & (_table.c.fence != fence) & _of(feed)
        connection.execute(_table.update().where(given_up).values(expires_at=now))
    return share


def keep(connection: sa.Connection, share: Share) -> bool:
    """Makes the rest of a transaction conditional on the share, and renews it.

    Returns:
        Whether the partitions are to be split anew: a deliverer has come or gone.

    Raises:
        LeaseLostError: if another deliverer has some of it now.
    """
    now = datetime.now(UTC)
    mine = _table.c.name.in_(share.names) & (_table.c.fence == share.fence)
    renewed = connection.execute(_table.update().where(mine).values(expires_at=now + TTL)).rowcount
    if renewed < len(share.names):
        raise LeaseLostError(f"another deliverer has taken over partitions of feed {share.feed}; this one stops")
    if share.alone:
        return False
    member = _table.c.name == _member(share.feed, share.holder)
    if connection.execute(_table.update().where(member).values(expires_at=now + TTL)).rowcount == 0:
        raise LeaseLostError(f"others take this deliverer of feed {share.feed} for dead; it begins anew")
    due = _due(connection, share.feed, share.holder, len(share.every), now)
    others = _held_by_others(connection, share.feed, share.holder, now)
    free = len(share.every) - len(share.partitions) - len(others)
    return len(share.partitions) > due or (len(share.partitions) < due and free > 0)


def renew(store: ControlStore, share: Share) -> None:
    """Keeps the share for another `TTL`.

    Raises:
        LeaseLostError: if another deliverer has some of it now.
    """
    with store.write() as connection:
        keep(connection, share)


def leave(store: ControlStore, share: Share) -> None:
    """Gives up the share, as far as it is still held, and the membership."""
    mine = _table.c.name.in_(share.names) & (_table.c.fence == share.fence)
    with store.write() as connection:
        connection.execute(_table.update().where(mine).values(expires_at=datetime.now(UTC)))
        connection.execute(_table.delete().where(_table.c.name == _member(share.feed, share.holder)))


def _join(connection: sa.Connection, feed: str, holder: str, fence: int, now: datetime) -> None:
    """Becomes a member or stays one, and forgets those that are gone."""
    for row in _members(connection, feed):
        if not is_alive(row, now):
            connection.execute(_table.delete().where(_table.c.name == row.name))
    name = _member(feed, holder)
    known = connection.execute(sa.select(_table.c.fence).where(_table.c.name == name)).scalar()
    leases.write(connection, [name], holder, fence if known is None else known, now)


def _tell_of_the_dead(connection: sa.Connection, share: Share, now: datetime) -> None:
    """Logs from whom a share is taken that did not give it back."""
    rows = connection.execute(sa.select(_table).where(_of(share.feed), _table.c.expires_at > now))
    for holder in sorted({row.holder for row in rows if row.holder != share.holder and not is_alive(row, now)}):
        log.warning("deliver:%s: its worker %s has died; another goes on from there", share.feed, holder)


def _due(connection: sa.Connection, feed: str, holder: str, partitions: int, now: datetime) -> int:
    """How many partitions a member is to have: as many as the others, those that came first one more."""
    alive = [row for row in _members(connection, feed) if row.holder == holder or is_alive(row, now)]
    order = [row.holder for row in sorted(alive, key=lambda row: (row.fence, row.name))]
    each, rest = divmod(partitions, len(order))
    return each + (order.index(holder) < rest)


def _members(connection: sa.Connection, feed: str) -> Sequence[sa.Row[Any]]:
    return connection.execute(
        sa.select(_table).where(_table.c.name.startswith(f"member:{feed}:", autoescape=True))
    ).all()


def _member(feed: str, holder: str) -> str:
    return f"member:{feed}:{hashlib.sha256(holder.encode()).hexdigest()[:16]}"


def _held_by_others(connection: sa.Connection, feed: str, holder: str, now: datetime) -> Mapping[str, str]:
    """The feed's leases to deliver that others who may be alive hold: name to holder."""
    rows = connection.execute(
        sa.select(_table).where(_of(feed), _table.c.holder != holder, _table.c.expires_at > now)
    )
    return {row.name: row.holder for row in rows if is_alive(row, now)}


def _held_by(connection: sa.Connection, feed: str, holder: str) -> set[str]:
    return set(connection.execute(sa.select(_table.c.name).where(_of(feed), _table.c.holder == holder)).scalars())


def _of(feed: str) -> sa.ColumnElement[bool]:
    """The feed's leases to deliver."""
    whole = lease_name("deliver", feed)
    return (_table.c.name == whole) | _table.c.name.startswith(f"{whole}:", autoescape=True)


def _name(feed: str, partition: int) -> str:
    return f"{lease_name('deliver', feed)}:{partition}"
