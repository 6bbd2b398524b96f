"""Shares: how a feed's deliverers split its partitions between them, or one of them takes all.

A deliverer that shares is a *member*, and has a lease for each partition of its share. Members see one another in
the control store, so each knows how many partitions are its due: it gives up what is more, once it has finished
what is in hand, and takes what nobody has. Where the hub assigns partitions to them (a Kafka consumer group does),
each says which are assigned to it, and only what is assigned to none of them is split like that. One that does not
share (a sensor's tick, a command) takes the whole feed under one lease, if nobody has any of it.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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


def take(
    store: ControlStore,
    feed: str,
    holder: str,
    partitions: Sequence[int],
    *,
    alone: bool,
    assigned: frozenset[int] = frozenset(),
) -> Share:
    """Takes what is a deliverer's due and free, and gives up what else it had.

    Args:
        store: the control store.
        feed: the feed.
        holder: who asks, as `worker_name` names it.
        partitions: the hub's partitions.
        alone: take all or nothing.
        assigned: what the hub assigns to this one of those that share.
    """
    now = datetime.now(UTC)
    with store.write() as connection:
        fence = leases.next_fence(connection, now)
        share = Share(feed, holder, partitions, (), fence, alone)
        if not alone:
            _join(connection, share, now)
            _claim(connection, share, assigned, now)
        others = _held_by_others(connection, feed, holder, now)
        if lease_name("deliver", feed) not in others and not (alone and others):
            share = replace(share, partitions=partitions if alone else _due(connection, share, others, now))
        if share.partitions:
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


def keep(connection: sa.Connection, share: Share, assigned: frozenset[int]) -> bool:
    """Makes the rest of a transaction conditional on the share, and renews it.

    Args:
        connection: the transaction.
        share: the share.
        assigned: as of `take`, now.

    Returns:
        Whether the partitions are to be split anew: a deliverer has come or gone, or the hub assigns others.

    Raises:
        LeaseLostError: if another deliverer has some of it now.
    """
    now = datetime.now(UTC)
    _renew(connection, share, now)
    if share.alone:
        return False
    _claim(connection, share, assigned, now)
    others = _held_by_others(connection, share.feed, share.holder, now)
    return _due(connection, share, others, now) != share.partitions


def renew(store: ControlStore, share: Share) -> None:
    """Keeps the share for another `TTL`.

    Raises:
        LeaseLostError: if another deliverer has some of it now.
    """
    with store.write() as connection:
        _renew(connection, share, datetime.now(UTC))


def _renew(connection: sa.Connection, share: Share, now: datetime) -> None:
    mine = _table.c.name.in_(share.names) & (_table.c.fence == share.fence)
    renewed = connection.execute(_table.update().where(mine).values(expires_at=now + TTL)).rowcount
    if renewed < len(share.names):
        raise LeaseLostError(f"another deliverer has taken over partitions of feed {share.feed}; this one stops")
    if share.alone:
        return
    member = _table.c.name == _member(share.feed, share.holder)
    if connection.execute(_table.update().where(member).values(expires_at=now + TTL)).rowcount == 0:
        raise LeaseLostError(f"others take this deliverer of feed {share.feed} for dead; it begins anew")


def leave(store: ControlStore, share: Share) -> None:
    """Gives up the share, as far as it is still held, and the membership."""
    mine = _table.c.name.in_(share.names) & (_table.c.fence == share.fence)
    with store.write() as connection:
        connection.execute(_table.update().where(mine).values(expires_at=datetime.now(UTC)))
        connection.execute(_table.delete().where(_table.c.name == _member(share.feed, share.holder)))
        connection.execute(_table.delete().where(_claims(share.feed), _table.c.holder == share.holder))


def _join(connection: sa.Connection, share: Share, now: datetime) -> None:
    """Becomes a member or stays one, and forgets those that are gone."""
    feed, holder = share.feed, share.holder
    for row in _members_and_claims(connection, feed):
        if not is_alive(row, now):
            connection.execute(_table.delete().where(_table.c.name == row.name))
    name = _member(feed, holder)
    known = connection.execute(sa.select(_table.c.fence).where(_table.c.name == name)).scalar()
    leases.write(connection, [name], holder, share.fence if known is None else known, now)


def _claim(connection: sa.Connection, share: Share, assigned: frozenset[int], now: datetime) -> None:
    """Says what the hub assigns to a member, in place of what it said before."""
    connection.execute(_table.delete().where(_claims(share.feed), _table.c.holder == share.holder))
    mine = assigned.intersection(share.every)
    names = [f"assigned:{share.feed}:{partition}:{_digest(share.holder)}" for partition in sorted(mine)]
    leases.write(connection, names, share.holder, share.fence, now)


def _tell_of_the_dead(connection: sa.Connection, share: Share, now: datetime) -> None:
    """Logs from whom a share is taken that did not give it back."""
    rows = connection.execute(sa.select(_table).where(_of(share.feed), _table.c.expires_at > now))
    for holder in sorted({row.holder for row in rows if row.holder != share.holder and not is_alive(row, now)}):
        log.warning("deliver:%s: its worker %s has died; another goes on from there", share.feed, holder)


def _due(connection: sa.Connection, share: Share, others: Mapping[str, str], now: datetime) -> list[int]:
    """The partitions that a member is to have, of those that no other has.

    They are what the hub assigns to it and, of what it assigns to no member, as many as the others get, those that
    came first one more.
    """
    feed, holder = share.feed, share.holder
    rows = _members_and_claims(connection, feed)
    alive = [row for row in rows if row.holder == holder or is_alive(row, now)]
    members = [row for row in alive if row.name.startswith("member:")]
    claims = [(int(row.name.split(":")[-2]), row.holder) for row in alive if row.name.startswith("assigned:")]
    rest = set(share.every).difference(partition for partition, _ in claims)
    order = [row.holder for row in sorted(members, key=lambda row: (row.fence, row.name))]
    each, more = divmod(len(rest), len(order))
    before = _held_by(connection, feed, holder)
    free = [one for one in share.every if _name(feed, one) not in others]
    known_first = sorted((one for one in free if one in rest), key=lambda one: _name(feed, one) not in before)
    shared = known_first[: each + (order.index(holder) < more)]
    return sorted([*shared, *(one for one in free if (one, holder) in claims)])


def _members_and_claims(connection: sa.Connection, feed: str) -> Sequence[sa.Row[Any]]:
    members = _table.c.name.startswith(f"member:{feed}:", autoescape=True)
    return connection.execute(sa.select(_table).where(members | _claims(feed))).all()


def _claims(feed: str) -> sa.ColumnElement[bool]:
    """What the hub assigns to members of the feed."""
    return _table.c.name.startswith(f"assigned:{feed}:", autoescape=True)


def _member(feed: str, holder: str) -> str:
    return f"member:{feed}:{_digest(holder)}"


def _digest(holder: str) -> str:
    return hashlib.sha256(holder.encode()).hexdigest()[:16]


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
