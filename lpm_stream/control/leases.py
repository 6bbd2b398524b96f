"""Leases: who does a piece of work now, so that a second worker stands by instead of doing it twice.

A lease spares work; it does not carry correctness. That is the fence's task: every holder gets a larger number,
company databases remember the largest they have seen, and a writer with a smaller one cannot commit.
"""

import hashlib
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import sqlalchemy as sa

from lpm_stream.control.store import ControlStore, upsert_all
from lpm_stream.control.tables import leases
from lpm_stream.errors import LeaseLostError, LpmStreamError

log = logging.getLogger(__name__)

Role = Literal["publish", "deliver", "backfill", "onboard"]

TTL = timedelta(seconds=10)
_SHORTEST_PAUSE = 0.5  # seconds
_LOOK_SECONDS = 0.2  # between looks whether another has ended
_SKEW = timedelta(minutes=1)  # between the clocks of hosts; a lease that lasts longer is of a clock set back since


@dataclass(frozen=True)
class Lease:
    """A lease in hand."""

    name: str
    holder: str
    fence: int


def lease_name(role: Role, feed: str, company: str | None = None) -> str:
    """The lease of one of a feed's drains, or of the work on one company."""
    if company is None:
        return f"{role}:{feed}"
    return f"{role}:{feed}:{hashlib.sha256(company.encode()).hexdigest()[:16]}"


def worker_name(role: str) -> str:
    """Names this worker for people and for its leases: role, host, process and thread."""
    return f"{role}@{socket.gethostname()}:{os.getpid()}:{threading.get_ident()}"


def acquire(store: ControlStore, name: str, holder: str) -> Lease | None:
    """Takes the lease, or returns None while another holder that may be alive has it.

    Args:
        store: the control store.
        name: what the lease is for.
        holder: who asks, as `worker_name` names it.
    """
    now = datetime.now(UTC)
    with store.write() as connection:
        row = connection.execute(sa.select(leases).where(leases.c.name == name)).one_or_none()
        if row is not None and row.holder != holder and _lasts(row.expires_at, now):
            if not _has_died(row.holder):
                return None
            log.warning("%s: its worker %s has died; another goes on from there", name, row.holder)
        fence = next_fence(connection, now)
        write(connection, [name], holder, fence, now)
    return Lease(name, holder, fence)


def next_fence(connection: sa.Connection, now: datetime) -> int:
    """A fence larger than any before, whatever it was for: a company may pass from one lease to another.

    Milliseconds keep fences growing even if the store is restored from an older copy.
    """
    newest = connection.execute(sa.select(sa.func.max(leases.c.fence))).scalar()
    return max(int(now.timestamp() * 1000), newest + 1 if newest is not None else 0)


def write(connection: sa.Connection, names: Sequence[str], holder: str, fence: int, now: datetime) -> None:
    """Notes leases as held, from now on for `TTL`, whoever held them."""
    values = {"holder": holder, "fence": fence, "expires_at": now + TTL}
    upsert_all(connection, leases, [{"name": name} for name in names], [values] * len(names))


def check(connection: sa.Connection, lease: Lease) -> None:
    """Makes the rest of a transaction conditional on the lease, and renews it.

    Raises:
        LeaseLostError: if another worker holds it now.
    """
    mine = (leases.c.name == lease.name) & (leases.c.fence == lease.fence)
    renewed = leases.update().where(mine).values(expires_at=datetime.now(UTC) + TTL)
    if connection.execute(renewed).rowcount == 0:
        raise LeaseLostError(f"another worker has taken over {lease.name}; this one stops")


def renew(store: ControlStore, lease: Lease) -> None:
    """Keeps the lease for another `TTL`.

    Raises:
        LeaseLostError: if another worker holds it now.
    """
    with store.write() as connection:
        check(connection, lease)


@contextmanager
def kept(store: ControlStore, lease: Lease) -> Iterator[None]:
    """Renews the lease from a thread of its own: for work that may be silent for longer than it lasts."""
    over = threading.Event()

    def keep() -> None:
        while not over.wait(max(TTL.total_seconds() / 3, _SHORTEST_PAUSE)):
            with suppress(LpmStreamError):  # a lost lease shows where something is written under it
                renew(store, lease)

    keeper = threading.Thread(target=keep, name="keep-lease", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join()


@contextmanager
def alone(store: ControlStore, name: str, holder: str, doing: str, patience: float = 0.0) -> Iterator[Lease]:
    """Keeps a lease from beginning to end of some work.

    Args:
        store: the control store.
        name: what the lease is for.
        holder: who asks, as `worker_name` names it.
        doing: what whoever has it does, for people: `company 'A' is being loaded`.
        patience: how many seconds to wait for another to end.

    Raises:
        LpmStreamError: if another holder that may be alive has it then.
    """
    deadline = time.monotonic() + patience
    while (lease := acquire(store, name, holder)) is None and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
    if lease is None:
        other = holders(store).get(name, "another worker")
        raise LpmStreamError(f"{doing} by {other} already; wait for that to end")
    try:
        with kept(store, lease):
            yield lease
    finally:
        release(store, lease)


def release(store: ControlStore, lease: Lease) -> None:
    """Gives the lease back, if it is still held."""
    mine = (leases.c.name == lease.name) & (leases.c.fence == lease.fence)
    with store.write() as connection:
        connection.execute(leases.update().where(mine).values(expires_at=datetime.now(UTC)))


def is_held(store: ControlStore, name: str, fence: int) -> bool:
    """Whether the lease with that fence is held by somebody who may be alive."""
    with store.read() as connection:
        row = connection.execute(sa.select(leases).where(leases.c.name == name)).one_or_none()
    return row is not None and row.fence == fence and is_alive(row, datetime.now(UTC))


def holders(store: ControlStore) -> dict[str, str]:
    """Who holds which lease now: name to holder."""
    now = datetime.now(UTC)
    with store.read() as connection:
        rows = connection.execute(sa.select(leases).where(leases.c.expires_at > now))
        return {row.name: row.holder for row in rows if is_alive(row, now)}


def is_alive(row: sa.Row[Any], now: datetime) -> bool:
    """Whether somebody who may be alive holds a lease, given as its row."""
    return _lasts(row.expires_at, now) and not _has_died(row.holder)


def at_work(holders: Mapping[str, str], role: Role, feed: str) -> str | None:
    """Who does this work, None if nobody; with commas in between where several share it.

    Args:
        holders: as `holders` returns them.
        role: the work.
        feed: of this feed, all companies together.
    """
    found = {holder for name, holder in holders.items() if is_for(name, role, feed)}
    return ", ".join(sorted(found)) or None


def is_for(name: str, role: Role, feed: str) -> bool:
    """Whether a lease is for this work: the whole of it, or a share."""
    whole = lease_name(role, feed)
    return name == whole or name.startswith(f"{whole}:")


def _lasts(expires_at: datetime, now: datetime) -> bool:
    return now < expires_at <= now + TTL + _SKEW


def _has_died(holder: str) -> bool:
    """Whether a holder is known to have ended without giving its lease back: a process of this host that is gone.

    So work goes on at once after a crash. Should the answer be wrong (hosts that share a name), the fence holds.
    """
    where, pid, _thread = holder.rsplit(":", 2)
    if where.rpartition("@")[2] != socket.gethostname():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # it lives, under another user
    return False
