"""The publish drain: source to hub, commit by commit, until caught up or out of time."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import polars as pl

from lpm_stream.alerts import raised
from lpm_stream.control import leases, progress, quarantine, registry
from lpm_stream.control.store import ControlStore
from lpm_stream.errors import LeaseLostError, SourceError
from lpm_stream.feed.entitlement import Entitlement
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.hub.message import Hub, Message
from lpm_stream.publish.pack import Place
from lpm_stream.publish.version import VersionReport, messages_of
from lpm_stream.source.delta import DeltaSource

log = logging.getLogger(__name__)

# How much is sent and acknowledged at once: enough to spread the cost of a durable append over many small
# commits, little enough that a commit never waits long for its neighbours.
_SEND_BYTES = 8_000_000
_SEND_SECONDS = 0.25

# How often it is said that publishing goes on: whoever had the lease before may have said that it stopped.
_TOLD_SECONDS = 3.0


@dataclass
class Published:
    """What a publish drain did.

    Attributes:
        version: the last version fully published.
        newest_version: the table's newest version when last looked at.
        versions: number of commits published.
        changes: number of changes sent.
        messages: number of messages sent.
        bytes: size of their bodies.
        quarantined: number of rows that went to quarantine.
        standby: whether another worker holds the lease, so that nothing was done.
    """

    version: int = -1
    newest_version: int = -1
    versions: int = 0
    changes: int = 0
    messages: int = 0
    bytes: int = 0
    quarantined: int = 0
    standby: bool = False


@dataclass
class _Outbox:
    """Messages that wait to be sent, and the commits that are complete once they are."""

    messages: list[Message] = field(default_factory=list)
    reports: list[VersionReport] = field(default_factory=list)
    bytes: int = 0
    since: float = field(default_factory=time.monotonic)

    def put(self, message: Message) -> None:
        self.messages.append(message)
        self.bytes += len(message.body)

    def drop_behind(self, version: int) -> None:
        self.messages = [message for message in self.messages if message.version <= version]
        self.bytes = sum(len(message.body) for message in self.messages)

    def due(self) -> bool:
        return self.bytes >= _SEND_BYTES or time.monotonic() - self.since >= _SEND_SECONDS


class _GivenUpError(Exception):
    """The commit in hand is left for next time: the process is to end."""


class Publisher:
    """Publishes one feed's changes under its lease."""

    def __init__(self, spec: FeedSpec, table: str, hub: Hub, store: ControlStore, first_version: int = 0) -> None:
        """A publisher for one feed.

        Args:
            spec: the feed.
            table: path or URL of its table, which is opened under the lease.
            hub: where to.
            store: the control store.
            first_version: where to begin a feed that was never published; earlier commits are left out.
        """
        self._spec = spec
        self._first_version = first_version
        self._table = table
        self._source: DeltaSource
        self._hub = hub
        self._store = store
        self._holder = leases.worker_name("publish")
        self._warned: tuple[str, ...] = ()
        self._epoch = 0
        self._published: dict[str, int] = {}
        self._taken: Mapping[str, str] = {}
        self._full: frozenset[str] = frozenset()
        self._seen = ""
        self._at_once: Callable[[], bool] = lambda: False

    def drain(
        self,
        *,
        poll_seconds: float,
        go_on: Callable[[], bool],
        at_once: Callable[[], bool] = lambda: False,
        until_caught_up: bool = False,
    ) -> Published:
        """Publishes new commits as they appear.

        Args:
            poll_seconds: pause when there is no new commit.
            go_on: asked before each commit; False ends the drain.
            at_once: asked within a commit, which may be large; True gives it up: it is published anew next time.
            until_caught_up: end when there is no new commit.

        Raises:
            SourceError: if the table is missing, has no Change Data Feed, or cannot be followed any further.
            HubError: if the hub does not take messages.
            LeaseLostError: if another worker has taken over.
        """
        done = Published()
        lease = leases.acquire(self._store, leases.lease_name("publish", self._spec.name), self._holder)
        if lease is None:
            done.standby = True
            return done
        try:
            self._at_once = at_once
            self._source = DeltaSource(self._spec, self._table)
            self._drain(lease, done, poll_seconds, go_on, until_caught_up)
        except LeaseLostError:
            raise  # another goes on
        except (Exception, pl.exceptions.PanicException) as error:
            raised.publishing_stopped(self._store, self._spec.name, error)
            raise
        finally:
            leases.release(self._store, lease)
        return done

    def _drain(
        self,
        lease: leases.Lease,
        done: Published,
        poll_seconds: float,
        go_on: Callable[[], bool],
        until_caught_up: bool,
    ) -> None:
        cursor = progress.read_cursor(self._store, self._spec.name)
        done.version = self._start(cursor)
        self._epoch = cursor.epoch if cursor else 0
        self._taken = cursor.taken_columns if cursor else {}
        with self._store.read() as connection:
            self._full = quarantine.full(connection, self._spec)
        renewed = time.monotonic()
        told = -math.inf
        while go_on():
            done.newest_version = self._source.newest_version()
            self._require_not_behind(done)
            is_behind = done.version < done.newest_version
            if is_behind:
                self._publish_some(lease, done, go_on)
                renewed = time.monotonic()
            if time.monotonic() - told > _TOLD_SECONDS:
                raised.publishing_goes_on(self._store, self._spec.name)
                told = time.monotonic()
            if is_behind:
                continue
            if until_caught_up:
                return
            if time.monotonic() - renewed > leases.TTL.total_seconds() / 3:
                leases.renew(self._store, lease)
                renewed = time.monotonic()
            time.sleep(poll_seconds)

    def _start(self, cursor: progress.Cursor | None) -> int:
        if cursor is None:
            return self._first_version - 1
        if self._first_version:
            raise SourceError(
                f"feed {self._spec.name} is published up to version {cursor.version} already: "
                f"leave out --from-version, it goes on from there"
            )
        if cursor.table_id != self._source.table_id:
            raise SourceError(
                f"table {self._source.location} is not the one that feed {self._spec.name} was published from "
                f"(its id changed): it was dropped and created anew; begin anew with lpm-stream resync"
            )
        self._require_same_history(cursor)
        return cursor.version

    def _require_same_history(self, cursor: progress.Cursor) -> None:
        """Raises SourceError if a commit that was published is another one now."""
        self._seen = cursor.commit_seen
        behind = cursor.version <= self._source.newest_version()
        if behind and self._seen and not self._source.has_seen(self._seen):
            version = self._seen.partition(":")[0]
            raise SourceError(
                f"version {version} of table {self._source.location} is another commit than the one that was "
                f"published: the table was set back and grew again; begin anew with lpm-stream resync"
            )

    def _require_not_behind(self, done: Published) -> None:
        if done.newest_version < done.version:
            raise SourceError(
                f"table {self._source.location} is at version {done.newest_version}, but version {done.version} "
                f"was published: it was set back or replaced; begin anew with lpm-stream resync"
            )

    def _publish_some(self, lease: leases.Lease, done: Published, go_on: Callable[[], bool]) -> None:
        """Publishes commits until there is enough to send, and stores the cursor behind them."""
        outbox = _Outbox()
        self._published = progress.read_published(self._store, self._spec.name)
        try:
            while done.version < done.newest_version and not outbox.due() and go_on():
                self._pack_next(lease, outbox, done)
        except _GivenUpError:
            outbox.drop_behind(done.version)
        except SourceError:
            # The commits before the one that cannot be read are complete: they go out first.
            outbox.drop_behind(done.version)
            self._send(outbox, done)
            self._advance(lease, outbox, done)
            raise
        self._send(outbox, done)
        self._advance(lease, outbox, done)

    def _pack_next(self, lease: leases.Lease, outbox: _Outbox, done: Published) -> None:
        changes = self._source.changes(done.version + 1, self._taken)
        changes = replace(changes, batches=self._attended(lease, changes.batches))
        place = Place(self._epoch, self._published, self._full)
        for item in messages_of(self._spec, changes, place, self._registered, self._hub.max_body_bytes):
            if isinstance(item, VersionReport):
                outbox.reports.append(item)
                self._taken = item.taken
                for company in item.companies:  # a backfill may have said more
                    self._published[company] = max(self._published.get(company, -1), item.version)
            else:
                outbox.put(item)
                if outbox.bytes >= _SEND_BYTES:
                    self._send(outbox, done)
                    leases.renew(self._store, lease)
        done.version += 1

    def _attended(self, lease: leases.Lease, batches: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
        """A commit's batches, with the lease kept: a commit may take longer than it lasts and yet send nothing."""
        renewed = time.monotonic()
        for batch in batches:
            if self._at_once():
                raise _GivenUpError
            if time.monotonic() - renewed > leases.TTL.total_seconds() / 3:
                leases.renew(self._store, lease)
                renewed = time.monotonic()
            yield batch

    def _registered(self) -> dict[str, Entitlement]:
        return registry.entitlements(self._store, self._spec.name)

    def _send(self, outbox: _Outbox, done: Published) -> None:
        self._hub.send(outbox.messages)
        done.messages += len(outbox.messages)
        done.changes += sum(message.rows for message in outbox.messages)
        done.bytes += outbox.bytes
        outbox.messages, outbox.bytes = [], 0

    def _advance(self, lease: leases.Lease, outbox: _Outbox, done: Published) -> None:
        if not outbox.reports:
            return
        held = outbox.reports[-1].held
        self._warn_of_held(held)
        feed = self._spec.name
        self._seen = self._source.commit_seen(done.version) or self._seen
        with self._store.write() as connection:
            leases.check(connection, lease)
            for report in outbox.reports:
                progress.count_unknown(connection, feed, report.version, report.unknown)
                done.quarantined += quarantine.add(connection, feed, report.refused)
            if self._full or any(report.refused for report in outbox.reports):
                self._full = quarantine.full(connection, self._spec)
            addressed = {company for report in outbox.reports for company in report.companies}
            progress.write_published(
                connection, feed, {company: self._published[company] for company in addressed}
            )
            cursor = progress.Cursor(
                self._source.table_id,
                done.version,
                done.newest_version,
                held,
                self._epoch,
                self._seen,
                outbox.reports[-1].taken,
            )
            progress.write_cursor(connection, feed, cursor)
        done.versions += len(outbox.reports)

    def _warn_of_held(self, held: tuple[str, ...]) -> None:
        if held and held != self._warned:
            log.warning(
                "table %s has columns that the contract of feed %s lacks: %s; they are held back until "
                "lpm_stream/defs/%s/defs.yaml declares them",
                self._source.location,
                self._spec.name,
                ", ".join(held),
                self._spec.name,
            )
        self._warned = held
