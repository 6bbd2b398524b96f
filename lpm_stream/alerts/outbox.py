"""The outbox: what is to be told, to each channel in order, until the channel has taken it.

A worker that sends claims the channel for a while, so that two do not send one thing twice. One that dies between
the sending and the note of it leaves the channel claimed until the time is over; then it is sent again.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from lpm_stream.control.store import ControlStore, upsert
from lpm_stream.control.tables import channels, notifications

_CLAIMED_FOR = timedelta(minutes=5)  # far longer than any channel takes over one message
_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(seconds=5), timedelta(minutes=5)
_AT_ONCE = 100
_KEPT = timedelta(days=30)


@dataclass(frozen=True)
class Notification:
    """What is told: `event` is opened, updated, reminder, resolved or test."""

    event: str
    title: str
    body: str


@dataclass(frozen=True)
class Batch:
    """What a worker has claimed.

    Attributes:
        channel: the channel.
        claim: which claim.
        ids: of the notifications.
        notifications: what is to be told, the oldest first.
    """

    channel: str
    claim: str
    ids: tuple[str, ...]
    notifications: tuple[Notification, ...]


@dataclass(frozen=True)
class ChannelState:
    """How a channel is doing.

    Attributes:
        channel: its reference.
        waiting: number of notifications that it has not taken yet.
        failures: how many tries have failed since it last took one.
        next_try_at: when it is tried again; None if nothing has failed.
        problem: why it does not take any, None if it does.
    """

    channel: str
    waiting: int
    failures: int
    next_try_at: datetime | None
    problem: str | None


def put(
    connection: sa.Connection,
    feed: str,
    to: Sequence[str],
    incident: str,
    notification: Notification,
    *,
    now: datetime,
) -> None:
    """Puts a notification into the outbox of each channel, within the transaction that makes it true."""
    values = {"feed": feed, "incident": incident, "created_at": now, **vars(notification)}
    rows = [values | {"id": secrets.token_hex(16), "channel": channel} for channel in to]
    if rows:
        connection.execute(notifications.insert(), rows)
    connection.execute(notifications.delete().where(notifications.c.created_at < now - _KEPT))


def claim(store: ControlStore, feed: str, channel: str, now: datetime) -> Batch | None:
    """Claims what waits for a channel; None if nothing does, another worker is at it, or it is not its time."""
    waiting = _waiting(feed, channel)
    with store.read() as connection:
        if connection.execute(sa.select(notifications.c.id).where(waiting)).first() is None:
            return None
    mine = (channels.c.feed == feed) & (channels.c.channel == channel)
    with store.write() as connection:
        state = connection.execute(sa.select(channels).where(mine)).one_or_none()
        if state is not None and (state.next_try_at > now or (state.claim and state.claimed_until > now)):
            return None
        oldest = sa.select(notifications).where(waiting)
        order = notifications.c.created_at, notifications.c.id
        rows = connection.execute(oldest.order_by(*order).limit(_AT_ONCE)).all()
        if not rows:
            return None
        token = secrets.token_hex(16)
        claimed = {"claim": token, "claimed_until": now + _CLAIMED_FOR}
        fresh = {"failures": 0, "next_try_at": now, "problem": None} if state is None else {}
        upsert(connection, channels, {"feed": feed, "channel": channel}, claimed | fresh)
    found = tuple(Notification(row.event, row.title, row.body) for row in rows)
    return Batch(channel, token, tuple(row.id for row in rows), found)


def settle(
    store: ControlStore, feed: str, batch: Batch, taken: int, problem: str | None, *, now: datetime
) -> None:
    """Notes how far a claimed batch was sent, and gives the channel back.

    Args:
        store: the control store.
        feed: the feed's name.
        batch: what was claimed.
        taken: how many of it the channel has taken, from the first on.
        problem: why it took no more; None if nothing went wrong.
        now: the present.
    """
    mine = (channels.c.feed == feed) & (channels.c.channel == batch.channel) & (channels.c.claim == batch.claim)
    with store.write() as connection:
        if taken:
            sent = notifications.c.id.in_(batch.ids[:taken])
            connection.execute(notifications.update().where(sent).values(sent_at=now))
        failures = connection.execute(sa.select(channels.c.failures).where(mine)).scalar()
        if failures is None:
            return  # it took so long that another worker has the channel now
        failures = 0 if problem is None else 1 if taken else failures + 1
        pause = min(_FIRST_PAUSE * 2.0 ** min(failures - 1, 16), _LONGEST_PAUSE) if failures else timedelta(0)
        values = {"claim": None, "failures": failures, "next_try_at": now + pause, "problem": problem}
        connection.execute(channels.update().where(mine).values(**values))


def openings_sent(store: ControlStore, feed: str, channel: str) -> dict[str, int]:
    """For each incident, how many messages a channel has taken that tell of its opening."""
    table = notifications
    mine = (
        table.c.feed == feed,
        table.c.channel == channel,
        table.c.event == "opened",
        table.c.sent_at.is_not(None),
    )
    query = sa.select(table.c.incident, sa.func.count()).where(*mine).group_by(table.c.incident)
    with store.read() as connection:
        return dict(connection.execute(query).all())


def read_channels(store: ControlStore, feed: str, named: Sequence[str]) -> list[ChannelState]:
    """How these channels are doing, and any other for which something waits."""
    counted = (
        sa.select(notifications.c.channel, sa.func.count())
        .where(notifications.c.feed == feed, notifications.c.sent_at.is_(None))
        .group_by(notifications.c.channel)
    )
    with store.read() as connection:
        waiting: dict[str, int] = dict(connection.execute(counted).all())
        rows = connection.execute(sa.select(channels).where(channels.c.feed == feed)).all()
    states = {row.channel: row for row in rows}
    found = []
    for channel in dict.fromkeys([*named, *sorted(waiting)]):
        state = states.get(channel)
        failures = state.failures if state else 0
        next_try_at = state.next_try_at if state and failures else None
        problem = state.problem if state else None
        found.append(ChannelState(channel, waiting.get(channel, 0), failures, next_try_at, problem))
    return found


def _waiting(feed: str, channel: str) -> sa.ColumnElement[bool]:
    return sa.and_(
        notifications.c.feed == feed, notifications.c.channel == channel, notifications.c.sent_at.is_(None)
    )
