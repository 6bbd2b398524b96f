"""The way out of a gap: the feed is begun anew at the table's version of now, and its companies are loaded.

What was published before, and what a company's database says it has applied, is of an earlier *epoch* then:
versions of two epochs are never compared. So a table that was set back or created anew cannot be mistaken for the
one before it, and a company is not delivered to until it was loaded.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from lpm_stream.control import audit, leases, progress, registry
from lpm_stream.delivery.backfill import Backfilled, backfill
from lpm_stream.errors import LpmStreamError
from lpm_stream.source.delta import DeltaSource
from lpm_stream.source.snapshot import Snapshot
from lpm_stream.stream import Stream

_PATIENCE_SECONDS = 40.0  # longer than a failing publisher's pause: it gives its lease back with each failure
_LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class Resynced:
    """What became of one company.

    Attributes:
        company: its id.
        loaded: what its backfill did, None if it failed.
        problem: why it failed; empty if it did not.
    """

    company: str
    loaded: Backfilled | None
    problem: str = ""


def begin_anew(stream: Stream) -> int:
    """Sets the cursor to the table's newest version, in a new epoch; returns the version.

    From here on every company needs a backfill before anything is delivered to it.

    Raises:
        LpmStreamError: if the table cannot be followed, or a publisher is at work that does not fail.
    """
    lease = _publish_lease(stream)
    try:
        source = DeltaSource(stream.spec, stream.table)
        snapshot = Snapshot(stream.spec, stream.table)
        version = snapshot.version
        feed = stream.spec.name
        before = progress.read_cursor(stream.store, feed)
        epoch = max(int(datetime.now(UTC).timestamp() * 1000), before.epoch + 1 if before else 0)
        companies = registry.registered(stream.store, stream.spec.name)
        seen = source.commit_seen(version) or ""
        with stream.store.write() as connection:
            leases.check(connection, lease)
            progress.forget_unknown(connection, feed)
            taken = snapshot.fit.taken  # by the backfills, which build every table anew
            cursor = progress.Cursor(source.table_id, version, version, (), epoch, seen, taken)
            progress.write_cursor(connection, feed, cursor)
            progress.forget_published(connection, feed)
            progress.write_published(connection, feed, dict.fromkeys(companies, version))
            audit.record(connection, "resync", None, {"feed": feed, "version": version, "epoch": epoch})
    finally:
        leases.release(stream.store, lease)
    return version


def load(
    stream: Stream,
    companies: Sequence[str],
    *,
    rebuild: bool,
    go_on: Callable[[], bool],
    tell: Callable[[str, int, int], None],
) -> Iterator[Resynced]:
    """Loads companies one after the other; one that fails does not keep the others waiting.

    Args:
        stream: the feed with its parts.
        companies: their ids.
        rebuild: as in `backfill`.
        go_on: likewise.
        tell: called with a company, the number of its rows read, and of its rows in all.
    """
    for company in companies:
        if not go_on():
            return
        try:
            yield Resynced(
                company, backfill(stream, company, rebuild=rebuild, go_on=go_on, tell=partial(tell, company))
            )
        except LpmStreamError as error:
            yield Resynced(company, None, str(error))


def _publish_lease(stream: Stream) -> leases.Lease:
    name = leases.lease_name("publish", stream.spec.name)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        lease = leases.acquire(stream.store, name, leases.worker_name("resync"))
        if lease is not None:
            return lease
        if time.monotonic() > deadline:
            holder = leases.holders(stream.store).get(name, "another worker")
            raise LpmStreamError(
                f"{holder} is publishing feed {stream.spec.name} without trouble; if it is to begin anew "
                f"nevertheless, stop that first. To load single companies: lpm-stream backfill"
            )
        time.sleep(_LOOK_SECONDS)
