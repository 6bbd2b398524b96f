"""Incidents: one for each cause and company, from when it is first seen until it has been gone for a while.

What there is to tell of one is put into the outbox in the transaction that changes the incident: either both
happen or neither.
"""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from lpm_stream.alerts import outbox
from lpm_stream.alerts.cause import Cause
from lpm_stream.alerts.look import Look
from lpm_stream.alerts.message import Event, message
from lpm_stream.control import audit
from lpm_stream.control.store import ControlStore
from lpm_stream.control.tables import incidents, silences
from lpm_stream.errors import LpmStreamError

_KEPT = timedelta(days=90)  # resolved ones
_LONGEST = 2_000  # characters of a text


@dataclass(frozen=True)
class Pace:
    """How often people are told.

    Attributes:
        reminder: pause between reminders of an open incident.
        calm: how long a cause has to be gone before its incident is resolved.
        update: shortest pause before a new text is told; a reason may change with every try.
    """

    reminder: timedelta = timedelta(hours=4)
    calm: timedelta = timedelta(minutes=2)
    update: timedelta = timedelta(minutes=10)


@dataclass(frozen=True)
class Incident:
    """An incident.

    Attributes:
        id: 32 hex digits.
        cause: what is wrong; `since` is the earliest that was seen.
        opened_at: when it was first seen.
        gone_since: since when the cause is gone, None if it is there.
        resolved_at: when the incident was over, None if it is open.
        acknowledged_at: when somebody took it on; they are not reminded.
        told_at: when people were last told; None if it was silenced all the time.
        told: what they were told.
    """

    id: str
    cause: Cause
    opened_at: datetime
    gone_since: datetime | None
    resolved_at: datetime | None
    acknowledged_at: datetime | None
    told_at: datetime | None
    told: str


@dataclass(frozen=True)
class Silence:
    """Nothing is told of a company, of a kind, or where None of all, until an instant."""

    kind: str | None
    company: str | None
    until: datetime

    def covers(self, cause: Cause) -> bool:
        """Whether nothing is to be told of a cause."""
        return self.kind in {None, cause.kind, cause.sort} and self.company in {None, cause.company}


@dataclass(frozen=True)
class Update:
    """What a look changed: numbers of incidents opened and resolved, and of notifications put into the outbox."""

    opened: int = 0
    resolved: int = 0
    told: int = 0


def update(
    store: ControlStore,
    feed: str,
    seen: Look,
    channels: Sequence[str],
    *,
    pace: Pace,
    dagster_url: str,
    now: datetime | None = None,
) -> Update:
    """Brings a feed's incidents up to what was seen, and puts what there is to tell into the outbox.

    Args:
        store: the control store.
        feed: the feed's name.
        seen: what is wrong now.
        channels: to whom to tell it.
        pace: how often.
        dagster_url: address of Dagster's UI.
        now: the present.
    """
    now = now or datetime.now(UTC)
    if not seen.causes and not read_incidents(store, feed):
        return Update()
    opened = resolved = 0
    tell: list[tuple[str, outbox.Notification]] = []
    with store.write() as connection:
        known = {(one.cause.kind, one.cause.company): one for one in _read(connection, feed, is_open=True)}
        quiet = _silences(connection, feed, now)
        causes = {(cause.kind, cause.company): cause for cause in map(_cut, seen.causes)}
        for key, cause in causes.items():
            incident = known.get(key)
            if incident is None:
                incident = _open(connection, feed, cause, now)
                opened += 1
            since = min(incident.cause.since, cause.since)
            cause = Cause(**(asdict(cause) | {"since": since}))  # noqa: PLW2901 - the same one, seen longer
            _set(connection, incident.id, asdict(cause) | {"gone_since": None})
            event = None if _is_quiet(quiet, cause) else _due(incident, cause, pace, now)
            if event:
                tell.append((incident.id, message(event, feed, cause, dagster_url, now)))
                _set(connection, incident.id, {"told_at": now, "told": cause.what})
        for key in known.keys() - causes.keys():
            incident = known[key]
            if seen.has_missed(incident.cause) or not _has_gone(connection, incident, pace, now):
                continue
            resolved += 1
            if incident.told_at and not _is_quiet(quiet, incident.cause):
                tell.append((incident.id, message("resolved", feed, incident.cause, dagster_url, now)))
        _forget(connection, feed, now)
        for incident_id, notification in tell:
            outbox.put(connection, feed, channels, incident_id, notification, now=now)
    return Update(opened, resolved, len(tell))


def _cut(cause: Cause) -> Cause:
    texts = {name: value[:_LONGEST] for name, value in asdict(cause).items() if isinstance(value, str)}
    return Cause(**(asdict(cause) | texts))


def _open(connection: sa.Connection, feed: str, cause: Cause, now: datetime) -> Incident:
    incident = Incident(secrets.token_hex(16), cause, now, None, None, None, None, "")
    values = asdict(cause) | {"id": incident.id, "feed": feed, "opened_at": now, "told": ""}
    connection.execute(incidents.insert().values(**values))
    return incident


def _due(incident: Incident, cause: Cause, pace: Pace, now: datetime) -> Event | None:
    """What there is to tell of an incident whose cause is there, if anything."""
    if incident.acknowledged_at is not None:
        return None
    if incident.told_at is None:
        return "opened"
    if incident.told != cause.what and now - incident.told_at >= pace.update:
        return "updated"
    return "reminder" if now - incident.told_at >= pace.reminder else None


def _has_gone(connection: sa.Connection, incident: Incident, pace: Pace, now: datetime) -> bool:
    """Notes that the cause of an open incident is not there; True if that makes it resolved."""
    gone_since = incident.gone_since or now
    is_over = now - gone_since >= pace.calm
    _set(connection, incident.id, {"gone_since": gone_since, "resolved_at": now if is_over else None})
    return is_over


def _is_quiet(quiet: Iterable[Silence], cause: Cause) -> bool:
    return any(silence.covers(cause) for silence in quiet)


def _set(connection: sa.Connection, incident_id: str, values: Mapping[str, Any]) -> None:
    connection.execute(incidents.update().where(incidents.c.id == incident_id).values(**values))


def _forget(connection: sa.Connection, feed: str, now: datetime) -> None:
    mine = incidents.c.feed == feed
    connection.execute(incidents.delete().where(mine, incidents.c.resolved_at < now - _KEPT))
    connection.execute(silences.delete().where(silences.c.feed == feed, silences.c.until <= now))


def read_incidents(store: ControlStore, feed: str, *, is_open: bool = True) -> list[Incident]:
    """A feed's open incidents, or with False those that are resolved, the oldest first."""
    with store.read() as connection:
        return _read(connection, feed, is_open=is_open)


def _read(connection: sa.Connection, feed: str, *, is_open: bool) -> list[Incident]:
    over = incidents.c.resolved_at.is_(None) if is_open else incidents.c.resolved_at.is_not(None)
    query = sa.select(incidents).where(incidents.c.feed == feed, over)
    rows = connection.execute(query.order_by(incidents.c.opened_at, incidents.c.id)).mappings()
    mine = [field.name for field in fields(Incident) if field.name != "cause"]
    return [
        Incident(
            cause=Cause(**{field.name: row[field.name] for field in fields(Cause)}),
            **{name: row[name] for name in mine},
        )
        for row in rows
    ]


def acknowledge(store: ControlStore, feed: str, id_prefix: str) -> Incident:
    """Takes an incident on: nobody is reminded of it any more; that it is resolved is told.

    Raises:
        LpmStreamError: if the id is not that of one open incident.
    """
    found = [one for one in read_incidents(store, feed) if one.id.startswith(id_prefix)]
    if len(found) != 1 or not id_prefix:
        which = "several open incidents" if found else "no open incident"
        raise LpmStreamError(f"id {id_prefix!r} is that of {which}; see lpm-stream alerts list")
    with store.write() as connection:
        _set(connection, found[0].id, {"acknowledged_at": datetime.now(UTC)})
        cause = found[0].cause
        details = {"feed": feed, "incident": found[0].id, "cause": cause.kind}
        audit.record(connection, "acknowledge", cause.company or None, details)
    return found[0]


def silence(store: ControlStore, feed: str, silenced: Silence) -> None:
    """Tells nothing of some causes for a while; what is still wrong afterwards is told then."""
    with store.write() as connection:
        values = asdict(silenced) | {"id": secrets.token_hex(16), "feed": feed}
        connection.execute(silences.insert().values(**values))
        details = {"feed": feed, "cause": silenced.kind, "until": silenced.until.isoformat()}
        audit.record(connection, "silence", silenced.company, details)


def end_silences(store: ControlStore, feed: str, kind: str | None, company: str | None) -> int:
    """Ends the silences of exactly that kind and company; returns how many there were."""
    mine = (
        silences.c.feed == feed,
        silences.c.kind.is_not_distinct_from(kind),
        silences.c.company.is_not_distinct_from(company),
    )
    with store.write() as connection:
        ended = connection.execute(silences.delete().where(*mine)).rowcount
        if ended:
            audit.record(connection, "end_silence", company, {"feed": feed, "cause": kind})
    return ended


def read_silences(store: ControlStore, feed: str) -> list[Silence]:
    """What is silenced now."""
    with store.read() as connection:
        return _silences(connection, feed, datetime.now(UTC))


def _silences(connection: sa.Connection, feed: str, now: datetime) -> list[Silence]:
    query = sa.select(silences).where(silences.c.feed == feed, silences.c.until > now)
    rows = connection.execute(query.order_by(silences.c.until)).all()
    return [Silence(row.kind, row.company, row.until) for row in rows]
