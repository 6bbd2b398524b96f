"""The audit: who did what when, append-only, each entry chained to the one before by its hash.

An entry is written in the transaction that does what it tells of. The database refuses to change or remove one;
whoever gets around that breaks the chain, which `verify` finds. Only entries cut off at the end leave a chain
that is whole: for that, a head that `verify` printed is kept elsewhere, and handed to a later one.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa

from lpm_stream.control.actor import who
from lpm_stream.control.store import ControlStore
from lpm_stream.control.tables import audit
from lpm_stream.errors import LpmStreamError

Details = Mapping[str, str | int | float | bool | None]

_BEFORE_THE_FIRST = ""
_AT_ONCE = 1_000
_LONGEST_WHO = 400


@dataclass(frozen=True)
class Entry:
    """Something that was done.

    Attributes:
        number: counts the entries from 1, without gaps.
        at: when.
        who: as `actor.who` says.
        action: what was done, such as "backfill".
        company: to which company, None if to none or to all.
        details: what else there is to say, without secrets and without rows' contents.
        hash: 64 hex digits, of this entry and the hash of the one before.
    """

    number: int
    at: datetime
    who: str
    action: str
    company: str | None
    details: Details
    hash: str


@dataclass(frozen=True)
class Head:
    """The newest entry of a chain: its number, 0 if there is none, and its hash."""

    number: int
    hash: str

    def __str__(self) -> str:
        return f"{self.number}:{self.hash}"

    @classmethod
    def parse(cls, text: str) -> "Head":
        """The head that a text like `12:9f86d0...` names.

        Raises:
            LpmStreamError: if it names none.
        """
        number, _, digest = text.partition(":")
        if not number.isdecimal():
            raise LpmStreamError(f"--head {text}: give a head as --verify prints it, NUMBER:HASH")
        return cls(int(number), digest)


@dataclass(frozen=True)
class Verified:
    """Whether the chain is whole.

    Attributes:
        head: where it ends, or the last entry that is right.
        problem: what is wrong with the first entry that is not right; empty if all are.
    """

    head: Head
    problem: str = ""


def record(connection: sa.Connection, action: str, company: str | None, details: Details) -> None:
    """Appends an entry.

    Args:
        connection: the `write` transaction that does what is recorded. Such transactions come one after the other,
            so the chain does not fork.
        action: what is done, at most 63 characters.
        company: to whom, None if to no company or to all.
        details: what else there is to say. No secrets.
    """
    newest = connection.execute(_query().order_by(audit.c.number.desc()).limit(1)).first()
    number, previous = (newest.number + 1, newest.hash) if newest else (1, _BEFORE_THE_FIRST)
    values = {
        "number": number,
        "at": _instant(datetime.now(UTC)),
        "who": _storable(who())[:_LONGEST_WHO],
        "action": action,
        "company": None if company is None else _storable(company),
        "details": json.dumps(dict(details), sort_keys=True),
    }
    connection.execute(audit.insert().values(**values, hash=_hash(previous, **values)))


def entries(store: ControlStore, *, company: str | None = None, since: datetime | None = None) -> list[Entry]:
    """The entries in order, those of one company or since an instant only."""
    query = _query().order_by(audit.c.number)
    if company is not None:
        query = query.where(audit.c.company == company)
    if since is not None:
        query = query.where(audit.c.at >= _instant(since))
    with store.read() as connection:
        return [_entry(row) for row in connection.execute(query)]


def _entry(row: sa.Row[tuple[object, ...]]) -> Entry:
    try:
        at, details = datetime.fromisoformat(row.at), json.loads(row.details)
    except (TypeError, ValueError) as error:
        raise LpmStreamError(
            f"entry {row.number} of the audit was changed and cannot be read: see lpm-stream audit --verify"
        ) from error
    return Entry(row.number, at, row.who, row.action, row.company, details, row.hash)


def verify(store: ControlStore, kept: Head | None = None) -> Verified:
    """Follows the chain from its beginning.

    Args:
        store: the control store.
        kept: a head of earlier; the chain has to go through it.
    """
    head = Head(0, _BEFORE_THE_FIRST)
    with store.read() as connection:
        query = _query().order_by(audit.c.number).execution_options(yield_per=_AT_ONCE)
        for row in connection.execute(query).mappings():
            if problem := _problem(row, head):
                return Verified(head, problem)
            head = Head(row["number"], row["hash"])
            if kept is not None and kept.number == head.number and kept.hash != head.hash:
                return Verified(head, f"entry {head.number} is another than when head {kept} was noted")
    if kept is not None and kept.number > head.number:
        return Verified(head, f"the chain ends at entry {head.number}: entries up to {kept.number} were cut off")
    return Verified(head)


def _problem(row: sa.RowMapping, before: Head) -> str:
    number = before.number + 1
    if row["number"] != number:
        return f"entry {number} is missing: entry {row['number']} stands in its place"
    values = {str(name): value for name, value in row.items() if name != "hash"}
    if _hash(before.hash, **values) != row["hash"]:
        return f"entry {number} was changed, or one before it replaced"
    return ""


def _query() -> sa.Select[tuple[object, ...]]:
    return sa.select(*audit.c)


def _hash(previous: str, **values: object) -> str:
    """SHA-256 of an entry and the hash of the one before, over JSON, in which no two entries look alike."""
    text = json.dumps([previous, *(values[name] for name in sorted(values))], default=repr)
    return hashlib.sha256(text.encode()).hexdigest()


def _instant(at: datetime) -> str:
    """Text that sorts as instants do."""
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def _storable(text: str) -> str:
    """Text that every database takes: arguments and variables may hold what is not UTF-8."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
