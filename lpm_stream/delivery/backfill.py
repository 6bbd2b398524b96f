"""The handover: one company is loaded from the table while the stream goes on for everybody else.

The table's newest version V is pinned, the company's stream held, its rows at V written, what V does not have
swept, the watermark set to V, and the stream released. Until then its table can be read. Killed on the way, a
backfill leaves a table that the stream brings to V by itself: its rows carry V, so no earlier change passes them.
"""

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

import polars as pl
import sqlalchemy as sa

from lpm_stream.control import audit, backfills, leases, parking, progress, quarantine
from lpm_stream.control.backfills import Backfill
from lpm_stream.delivery.apply import refusal
from lpm_stream.delivery.bisect import refused_rows
from lpm_stream.delivery.database import Transaction
from lpm_stream.delivery.hold import Loading, loading
from lpm_stream.delivery.watermark import Watermark
from lpm_stream.errors import LeaseLostError, LpmStreamError, RowFaultError, told
from lpm_stream.feed.contract import check
from lpm_stream.feed.schema import CHANGE_TYPE, COMMIT_VERSION
from lpm_stream.publish.version import broken
from lpm_stream.source.snapshot import Snapshot
from lpm_stream.stream import Stream

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
    with loading(stream, company, "backfill") as begun:
        return _Backfill(stream, begun, go_on, tell).run(rebuild)


class _Backfill:
    """One backfill under its lease."""

    def __init__(self, stream: Stream, begun: Loading, go_on: Callable[[], bool], tell: Progress) -> None:
        self._stream = stream
        self._loading = begun
        self._company = begun.served.company
        self._contract = begun.served.entitlement.contract(stream.spec)
        self._go_on = go_on
        self._tell = tell
        self._state: Backfill | None = None
        self._renewed = 0.0
        self._rebuild = False
        self._refused = 0
        self._found_wrong: set[str] = set()

    def run(self, rebuild: bool) -> Backfilled:
        try:
            with self._loading.held() as before:
                return self._run(before, rebuild)
        except BaseException as error:
            if self._state is not None:
                self._end_state(self._state, told(error), None)
            raise

    def _run(self, before: Watermark, rebuild: bool) -> Backfilled:
        cursor = progress.read_cursor(self._stream.store, self._stream.spec.name)
        epoch = cursor.epoch if cursor else 0
        end = self._end()  # before the version is pinned: what lies up to there is of versions up to it
        snapshot = Snapshot(self._stream.spec, self._stream.table)
        self._rebuild = rebuild or before.epoch != epoch
        self._require_not_behind(before, snapshot.version)
        self._state = state = self._begin(snapshot)
        written = self._load(snapshot, state)
        number = before.sequence_number if end is None else end
        mark = replace(before, epoch=epoch, version=snapshot.version, sequence_number=number, pending={})
        self._loading.patiently(partial(self._finish, mark))
        self._note_loaded(mark)
        self._end_state(replace(state, rows=state.total_rows), "loaded", snapshot.version)
        return Backfilled(self._company, snapshot.version, written, self._refused, self._rebuild)

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
            leases.check(connection, self._loading.lease)
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
        generation = state.generation if loaded is None else self._loading.served.entitlement.generation
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
            self._loading.patiently(self._begin_anew)
        read = written = 0
        for rows in snapshot.rows(self._company, _BATCH_ROWS):
            for part in rows.iter_slices(_BATCH_ROWS):
                if not self._go_on():
                    raise LpmStreamError(f"the backfill of company {self._company!r} was stopped; run it again")
                written += self._loading.patiently(partial(self._write, self._checked(snapshot, part)))
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
        """Writes rows but for those that the table refuses; returns how many."""
        while True:
            try:
                with self._loading.writing() as transaction:
                    self._put(transaction, rows)
            except RowFaultError as fault:
                found = refused_rows(self._loading.database, rows, self._put, fault)
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

    def _begin_anew(self) -> None:
        with self._loading.writing() as transaction:
            transaction.create_replacement()

    def _finish(self, mark: Watermark) -> None:
        try:
            with self._loading.writing() as transaction:
                if self._rebuild:
                    transaction.swap()
                else:
                    transaction.sweep(mark.version)
                transaction.store(mark)
        except LeaseLostError:
            if not self._is_finished(mark):
                raise

    def _is_finished(self, mark: Watermark) -> bool:
        """Whether an attempt has succeeded of which the database could not say so any more."""
        with self._loading.database.transaction() as transaction:
            return transaction.watermark() == mark
