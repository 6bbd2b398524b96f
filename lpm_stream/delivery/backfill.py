"""The handover: one company is loaded from the table while the stream goes on for everybody else.

The table's newest version V is pinned, the company's stream held, its rows at V written, what V does not have
swept, the watermark set to V, and the stream released. Until then its table can be read. Killed on the way, a
backfill leaves a table that the stream brings to V by itself: its rows carry V, so no earlier change passes them.
"""

import logging
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import polars as pl
import sqlalchemy as sa

from lpm_stream.control import audit, backfills, leases, parking, progress, quarantine, registry
from lpm_stream.control.backfills import Backfill
from lpm_stream.delivery.apply import WaitsError, refusal
from lpm_stream.delivery.bisect import refused_rows
from lpm_stream.delivery.database import CompanyDatabase, Transaction
from lpm_stream.delivery.entitled import EntitlementsChangedError
from lpm_stream.delivery.hold import hold, loading, require_held
from lpm_stream.delivery.watermark import Watermark
from lpm_stream.errors import (
    LpmStreamError,
    NoDatabaseError,
    QuarantineFullError,
    RowFaultError,
    TargetFaultError,
)
from lpm_stream.feed.contract import check
from lpm_stream.feed.schema import CHANGE_TYPE, COMMIT_VERSION
from lpm_stream.publish.version import broken
from lpm_stream.source.snapshot import Snapshot
from lpm_stream.stream import Stream

log = logging.getLogger(__name__)

_LASTING = (EntitlementsChangedError, WaitsError, QuarantineFullError, NoDatabaseError)  # no faults that pass
_PAUSES = (0.5, 2.0, 5.0)  # seconds, between attempts at a batch
_BATCH_ROWS = 20_000  # a transaction: enough to be quick, little enough to renew the lease in time
_RENEW_SECONDS = 1.0
_INSERT = "insert"

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Backfilled:
    """What a backfill did.

    Attributes:
        company: whom it loaded.
        version: the table's version that the company's database has now.
        rows: number of rows written.
        refused: number of rows in quarantine instead.
        replaced: whether the table was built anew beside the old one.
    """

    company: str
    version: int
    rows: int
    refused: int
    replaced: bool


def backfill(
    stream: Stream, company: str, *, rebuild: bool, go_on: Callable[[], bool], tell: Progress
) -> Backfilled:
    """Loads one company from the table.

    Args:
        stream: the feed with its parts.
        company: its id.
        rebuild: build the table anew beside the old one and swap, instead of writing into it.
        go_on: asked before each batch; False gives up, with the stream released.
        tell: called with the number of rows read and of rows in all.

    Raises:
        LpmStreamError: if the company is not registered or is being loaded already, or its rows cannot be read or
            written; if it is removed, or its database or entitlement changes, meanwhile. The stream is released.
    """
    with loading(stream, company) as lease:
        revision = registry.revision(stream.store)  # first: a change after it is noticed
        served = stream.served(company)
        work = _Backfill(stream, served, revision, lease, stream.open_database(served), go_on, tell)
        with closing(work):
            return work.run(rebuild)


class _Backfill:
    """One backfill under its lease."""

    def __init__(  # noqa: PLR0917 - what the functions below share
        self,
        stream: Stream,
        served: registry.Served,
        revision: registry.Revision,
        lease: leases.Lease,
        database: CompanyDatabase,
        go_on: Callable[[], bool],
        tell: Progress,
    ) -> None:
        self._stream = stream
        self._company = served.company
        self._contract = served.entitlement.contract(stream.spec)
        self._served = served
        self._revision = revision
        self._lease = lease
        self._database = database
        self._go_on = go_on
        self._tell = tell
        self._renewed = 0.0
        self._rebuild = False
        self._refused = 0
        self._found_wrong: set[str] = set()

    def run(self, rebuild: bool) -> Backfilled:
        before = hold(self._database, self._lease)
        state = None
        try:
            cursor = progress.read_cursor(self._stream.store, self._stream.spec.name)
            epoch = cursor.epoch if cursor else 0
            end = self._end()  # before the version is pinned: what lies up to there is of versions up to it
            snapshot = Snapshot(self._stream.spec, self._stream.table)
            self._rebuild = rebuild or before.epoch != epoch
            self._require_not_behind(before, snapshot.version)
            state = self._begin(snapshot)
            written = self._load(snapshot, state)
            number = before.sequence_number if end is None else end
            mark = replace(before, epoch=epoch, version=snapshot.version, sequence_number=number, pending={})
            self._finish(mark)
            self._note_loaded(mark)
            self._end_state(replace(state, rows=state.total_rows), "loaded", snapshot.version)
        except BaseException as error:
            with suppress(LpmStreamError):  # then the deliverer releases it once the lease has run out
                self._release()
            if state is not None:
                self._end_state(state, str(error) or type(error).__name__, None)
            raise
        return Backfilled(self._company, snapshot.version, written, self._refused, self._rebuild)

    def close(self) -> None:
        """Closes the database."""
        self._database.close()

    def _release(self) -> None:
        with self._database.transaction() as transaction:
            mark = transaction.watermark()
            if mark.hold == self._lease.fence:
                transaction.store(replace(mark, hold=0))
                if self._rebuild:
                    transaction.drop_replacement()

    def _require_not_behind(self, before: Watermark, version: int) -> None:
        if not self._rebuild and version < before.version:
            raise LpmStreamError(
                f"table {self._stream.table} is at version {version}, but company {self._company!r} has version "
                f"{before.version}: the table was set back; begin the feed anew with lpm-stream resync"
            )

    def _end(self) -> int | None:
        """Where the hub partition of the company ends, None if it is not known which one that is."""
        delivered = progress.read_deliveries(self._stream.store, self._stream.spec.name).get(self._company)
        parked = parking.read_parked(self._stream.store, self._stream.spec.name).get(self._company)
        partition = parked.partition if parked else delivered.partition if delivered else -1
        return self._stream.hub.end(partition) if partition >= 0 else None

    def _begin(self, snapshot: Snapshot) -> Backfill:
        total = snapshot.count(self._company)
        last = backfills.read(self._stream.store, self._stream.spec.name).get(self._company)
        state = Backfill(
            uuid.uuid4().hex,
            snapshot.version,
            0,
            total,
            datetime.now(UTC),
            loaded_version=last.loaded_version if last else -1,
            generation=last.generation if last else 0,
        )
        self._keep(state, begins=True)
        return state

    def _keep(self, state: Backfill, *, begins: bool = False) -> None:
        """Renews the lease and stores how far this is."""
        with self._stream.store.write() as connection:
            leases.check(connection, self._lease)
            backfills.write(connection, self._stream.spec.name, self._company, state)
            if begins:
                self._record(connection, "backfill", state)
        self._renewed = time.monotonic()
        self._tell(state.rows, state.total_rows)

    def _note_loaded(self, mark: Watermark) -> None:
        """Tells deliverers what the database has, and the publisher what its next message comes behind."""
        feed, now = self._stream.spec.name, datetime.now(UTC)
        known = progress.read_deliveries(self._stream.store, feed).get(self._company)
        partition = known.partition if known else -1
        delivered = progress.Delivered(mark.epoch, mark.version, partition, mark.sequence_number, now, now)
        with self._stream.store.write() as connection:
            progress.write_deliveries(connection, feed, {self._company: delivered})
            progress.raise_published(connection, feed, self._company, mark.epoch, mark.version)

    def _end_state(self, state: Backfill, outcome: str, loaded: int | None) -> None:
        feed = self._stream.spec.name
        loaded_version = state.loaded_version if loaded is None else loaded
        generation = state.generation if loaded is None else self._served.entitlement.generation
        ended = replace(
            state,
            finished_at=datetime.now(UTC),
            outcome=outcome,
            loaded_version=loaded_version,
            generation=generation,
        )
        with self._stream.store.write() as connection:
            backfills.write(connection, feed, self._company, ended)
            if loaded is not None:  # what is still wrong was found wrong again
                quarantine.remove_through(connection, feed, self._company, loaded, but=self._found_wrong)
            self._record(connection, "backfill_ended", ended)
        parking.try_now(self._stream.store, feed, self._company)
        self._tell(ended.rows, ended.total_rows)

    def _record(self, connection: sa.Connection, action: str, state: Backfill) -> None:
        details: dict[str, str | int] = {"feed": self._stream.spec.name, "id": state.id, "version": state.version}
        details |= {"outcome": state.outcome[:2000]} if state.outcome else {"rebuild": self._rebuild}
        audit.record(connection, action, self._company, details)

    def _load(self, snapshot: Snapshot, state: Backfill) -> int:
        if self._rebuild:
            with self._writing() as transaction:
                transaction.create_replacement()
        read = written = 0
        for rows in snapshot.rows(self._company, _BATCH_ROWS):
            for part in rows.iter_slices(_BATCH_ROWS):
                if not self._go_on():
                    raise LpmStreamError(f"the backfill of company {self._company!r} was stopped; run it again")
                written += self._write(self._checked(snapshot, part))
                read += part.height
                if time.monotonic() - self._renewed > _RENEW_SECONDS:
                    self._keep(replace(state, rows=read))
        return written

    def _checked(self, snapshot: Snapshot, rows: pl.DataFrame) -> pl.DataFrame:
        """The rows that fit the company's contract; the others go to quarantine."""
        spec = self._contract
        checked = check(spec, snapshot.fit, rows.with_columns(pl.lit(_INSERT).alias(CHANGE_TYPE)))
        self._set_aside(
            [
                *broken(spec, snapshot.version, checked.bad),
                *broken(spec, snapshot.version, checked.stripped),
            ]
        )
        self._refused += checked.bad.height
        version = pl.lit(snapshot.version, pl.Int64).alias(COMMIT_VERSION)
        return checked.good.unique(spec.primary_key, keep="last", maintain_order=True).with_columns(version)

    def _write(self, rows: pl.DataFrame) -> int:
        """Writes rows but for those that the table refuses; returns how many.

        What passes by itself (a deadlock, a database that moves or has too much to do) is not the end of hours of
        work: the batch is written again, on a new connection.
        """
        for pause in _PAUSES:
            try:
                return self._write_once(rows)
            except _LASTING:
                raise
            except TargetFaultError as error:
                log.warning("backfill of company %r: %s; tried again in %g s", self._company, error, pause)
            time.sleep(pause)
            leases.renew(self._stream.store, self._lease)
            self._database.close()
            with suppress(TargetFaultError):  # then the next attempt says so
                self._database = self._stream.open_database(self._served)
        return self._write_once(rows)

    def _write_once(self, rows: pl.DataFrame) -> int:
        while True:
            try:
                with self._writing() as transaction:
                    self._put(transaction, rows)
            except RowFaultError as fault:
                found = refused_rows(self._database, rows, self._put, fault)
                self._set_aside(
                    [refusal(self._stream.spec, row.drop(CHANGE_TYPE), reason) for row, reason in found]
                )
                self._refused += len(found)
                rows = rows.join(
                    pl.concat([row for row, _ in found]), on=self._stream.spec.primary_key, how="anti"
                )
            else:
                return rows.height

    def _put(self, transaction: Transaction, rows: pl.DataFrame) -> None:
        if self._rebuild:
            transaction.fill_replacement(rows.drop(CHANGE_TYPE))
        else:
            transaction.merge(rows)

    def _set_aside(self, refused: Sequence[quarantine.Refused]) -> None:
        if refused:
            self._found_wrong.update(row.id(self._stream.spec.name) for row in refused)
            with self._stream.store.write() as connection:
                quarantine.add(connection, self._stream.spec.name, refused)
                since = refused[0].version
                quarantine.require_room(connection, self._stream.spec, self._company, loading_version=since)

    def _finish(self, mark: Watermark) -> None:
        with self._writing() as transaction:
            if self._rebuild:
                transaction.swap()
            else:
                transaction.sweep(mark.version)
            transaction.store(mark)

    @contextmanager
    def _writing(self) -> Iterator[Transaction]:
        """A transaction that ends in an error if the stream was released, or the company changed, meanwhile."""
        with self._database.transaction() as transaction:
            self._require_unchanged()
            require_held(transaction, self._lease, f"the backfill of company {self._company!r}")
            yield transaction

    def _require_unchanged(self) -> None:
        """Raises an error if the company is not served any more, or not as it was when this began."""
        revision = registry.revision(self._stream.store)
        if revision == self._revision:
            return
        now, was = self._stream.served(self._company), self._served
        if (now.database, now.entitlement) != (was.database, was.entitlement):
            raise LpmStreamError(
                f"company {self._company!r} got another database or other columns meanwhile; load it again"
            )
        self._revision = revision
