"""SQL Server and Azure SQL as a company database: rows as one JSON parameter or in bulk, and one MERGE from there.

Everything happens in one transaction, which locks the watermark's row at its beginning: the right to write. Only
bulk copy does not: it has a connection of its own, so it fills a permanent staging table, from which nothing is
taken but its own batch.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import polars as pl
import sqlalchemy as sa

from lpm_stream import mssql
from lpm_stream.delivery.entitled import require_newest
from lpm_stream.delivery.indexes import lacking_indexes, make_indexes
from lpm_stream.delivery.mssql_bulk import BulkCopy
from lpm_stream.delivery.mssql_rows import as_json, require_storable
from lpm_stream.delivery.mssql_schema import fit_to_contract, fit_to_entitlements, fitted
from lpm_stream.delivery.mssql_tables import MssqlTables
from lpm_stream.delivery.table_faults import lost_table, misfit, require_own
from lpm_stream.delivery.watermark import Watermark
from lpm_stream.errors import LeaseLostError, RowFaultError, TargetFaultError
from lpm_stream.feed.schema import CHANGE_TYPE, DELETE
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.mssql import Connection, MssqlError

log = logging.getLogger(__name__)

# A bulk copy takes about 0.6 s before its first row, and then a quarter of the time. So it pays from some 14,000
# rows on, which backfills have at once; the stream's own batches are smaller.
BULK_ROWS = 15_000
_JSON_ROWS, _JSON_BYTES = 2_000, 8_000_000  # of one parameter, at most

# What a value can bring about: overflow, conversion, NULL, constraints, keys that are there or too long for their
# index, rows that are too long, a trigger that rolls back. And what a trigger raises itself: 50000 and above.
# https://learn.microsoft.com/sql/relational-databases/errors-events/database-engine-events-and-errors
_ROW_FAULTS = frozenset(
    {220, 232, 241, 242, 244, 245, 248, 511, 515, 517, 547, 550, 1946, 2601, 2627, 2628, 3609, 8114, 8115, 8152}
)
_RAISED = 50_000


class MssqlDatabase:
    """A company's SQL Server database, in the login's default schema."""

    def __init__(self, spec: FeedSpec, company: str, url: sa.URL, generation: int = 0) -> None:
        self._spec = spec
        self._generation = generation
        self._url = url
        self._place = mssql.shown(url)
        self._tables = MssqlTables(spec, company)
        self._company = company
        self._misfit: str | None = None
        self._bulk = BulkCopy(url, self._place) if mssql.has_bulk_copy(url) else None
        with _faults(self._place):
            self._connection = _connect(url)
        try:
            make_indexes(self._tables, self._prepare(), self.transaction)
        except BaseException:
            self._connection.close()
            raise

    @contextmanager
    def transaction(self) -> Iterator["MssqlTransaction"]:
        """One transaction; the watermark is locked at its beginning."""
        with self._begun() as transaction:
            transaction.take_right_to_write()
            yield transaction

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()

    @contextmanager
    def _begun(self) -> Iterator["MssqlTransaction"]:
        transaction = MssqlTransaction(
            self._spec,
            self._tables,
            self._place,
            self._connection,
            misfit=self._misfit,
            generation=self._generation,
            bulk=self._bulk,
        )
        with _faults(self._place):
            try:
                yield transaction
                transaction.require_whole()
                self._connection.commit()
            except BaseException:
                with suppress(MssqlError):  # of a connection that is lost: the server rolls back by itself
                    self._connection.rollback()
                raise
            finally:
                transaction.clean_up()

    def _prepare(self) -> list[str]:
        """Makes the tables in a new database; refuses one that is another company's or has lost its table.

        Returns:
            The indexes that the table lacks.
        """
        tables = self._tables
        with self._begun() as transaction:
            if transaction.query(tables.begin_preparing)[0][0] < 0:
                raise TargetFaultError(f"database {self._place} is being prepared by others; tried again later")
            if not transaction.exists(tables.watermark_name):
                transaction.run(tables.create_watermarks)
            if not transaction.exists(tables.entitlement_name):
                transaction.run(tables.create_entitlements)
            require_own(self._company, transaction.query(tables.select_companies), self._place)
            known = transaction.query(tables.lock_watermark)
            for stage in (tables.upserts, tables.deletes):
                if transaction.exists(stage):  # what a crash has left behind
                    transaction.run(tables.empty_stage(stage))
            lost = bool(known) and not transaction.exists(tables.name)
            if not known:  # also where it was lost: then the stream finds that it lacks what came before
                statements = () if transaction.exists(tables.name) else tables.create
                for statement in (*statements, tables.insert_watermark):
                    transaction.run(statement)
            fit_to_entitlements(self._spec, tables, transaction, self._generation)
            if lost:
                self._misfit = lost_table(self._spec, self._place)
                return []
            problems = fit_to_contract(self._spec, tables, transaction)
            self._misfit = misfit(self._spec, self._place, problems)
            return [] if problems else lacking_indexes(tables, transaction)


class MssqlTransaction:
    """One transaction of a company's SQL Server database.

    Attributes:
        place: the database, for people.
    """

    def __init__(
        self,
        spec: FeedSpec,
        tables: MssqlTables,
        place: str,
        connection: Connection,
        *,
        misfit: str | None,
        generation: int,
        bulk: BulkCopy | None,
    ) -> None:
        self._spec = spec
        self._tables = tables
        self._connection = connection
        self._misfit = misfit
        self._generation = generation
        self._bulk = bulk
        self._watermark: Watermark | None = None
        self._failed = False
        self._has_altered = False
        self._batches: list[tuple[str, str]] = []  # staging table, batch
        self.place = place

    def take_right_to_write(self) -> None:
        """Waits for whoever else writes."""
        for row in self.query(self._tables.lock_watermark):
            self._watermark = Watermark.from_row(row)

    def watermark(self) -> Watermark:
        """What the database has applied."""
        if self._watermark is None:
            raise TargetFaultError(f"database {self.place} has lost its watermark; restore it")
        return self._watermark

    def merge(self, changes: pl.DataFrame) -> None:
        """Applies changes under the row guard."""
        if self._misfit:
            raise TargetFaultError(self._misfit)
        tables = self._tables
        changes, types = fitted(self._spec, changes, tables, self, tables.name)
        deletes = changes[CHANGE_TYPE] == DELETE
        upserts = changes.filter(~deletes) if deletes.any() else changes
        self._upsert(tables.name, upserts.select(list(types)), types)
        gone = {name: types[name] for name in tables.identity}
        self._land(tables.deletes, changes.filter(deletes).select(list(gone)), gone, tables.delete)

    def sweep(self, version: int) -> None:
        """Removes rows of earlier versions."""
        self.run(self._tables.sweep, (version,))

    def create_replacement(self) -> None:
        """Makes an empty table beside the company's."""
        self._require_newest()
        for statement in self._tables.create_replacement:
            self.run(statement)

    def fill_replacement(self, rows: pl.DataFrame) -> None:
        """Adds rows to it."""
        self._require_newest()
        name = self._tables.replacement_name
        rows, types = fitted(self._spec, rows, self._tables, self, name)
        self._upsert(name, rows, types)

    def drop_replacement(self) -> None:
        """Removes it."""
        self.run(self._tables.drop_replacement)

    def swap(self) -> None:
        """Puts it into the place of the company's table, for the same readers."""
        self._require_newest()
        grants = [self._tables.grant(*grant) for grant in self.query(self._tables.select_grants)]
        lost = [what for (what,) in self.query(self._tables.select_customers_own)]
        for statement in (*grants, *self._tables.swap):
            self.run(statement)
        if lost:  # SQL Server has no words for how an index was made
            log.warning("%s: table %s is built anew, without its %s", self.place, self._spec.name, ", ".join(lost))

    def store(self, watermark: Watermark) -> None:
        """Stores the watermark under the fence."""
        values = (*watermark.to_row(), watermark.fence)
        if not self.query(self._tables.update_watermark, values):
            raise LeaseLostError(f"another worker with a newer lease writes to {self.place}; this one stops")
        self._watermark = watermark

    def drop(self) -> None:
        """Removes the company's rows, and the watermark."""
        for statement in self._tables.drop_all:
            self.run(statement)

    def require_whole(self) -> None:
        """Raises TargetFaultError if a statement has failed: the server has rolled back then."""
        if self._failed:
            raise TargetFaultError(f"database {self.place}: a statement of the transaction had failed")

    def clean_up(self) -> None:
        """Removes what was staged, once the transaction is over. What stays is never read, and goes later."""
        with suppress(MssqlError):
            for stage, batch in self._batches:
                self._connection.execute(self._tables.delete_batch(stage), (batch,))
                self._connection.commit()

    def exists(self, table: str) -> bool:
        """Whether there is such a table."""
        return bool(self.query(self._tables.exists(table))[0][0])

    def run(self, statement: str, values: Sequence[Any] = ()) -> None:
        """Executes a statement without a result."""
        self.query(statement, values)

    def query(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Executes a statement and returns its rows."""
        self._has_altered = self._has_altered or statement.startswith("ALTER")
        try:
            return self._connection.execute(statement, values)
        except MssqlError:
            self._failed = True
            raise

    def _upsert(self, table: str, rows: pl.DataFrame, types: Mapping[str, str]) -> None:
        require_storable(rows)
        self._land(
            self._tables.upserts, rows, types, lambda source: self._tables.upsert(table, rows.columns, source)
        )

    def _require_newest(self) -> None:
        require_newest(self._generation, self.query(self._tables.select_entitlement), self.place)

    def _land(
        self, stage: str, rows: pl.DataFrame, types: Mapping[str, str], statement: Callable[[str], str]
    ) -> None:
        """Brings rows to the server, and has a statement take them from there."""
        if (
            self._bulk
            and rows.height >= BULK_ROWS
            and not self._has_altered  # which the other connection would have to wait for
            and (batch := self._bulk.load(self._tables, stage, rows, types))
        ):
            self._batches.append((stage, batch))
            self._write(statement(self._tables.from_stage(stage, types)), batch)
            return
        most = _JSON_BYTES * rows.height // max(1, rows.estimated_size())
        for part in rows.iter_slices(max(1, min(_JSON_ROWS, int(most)))):
            self._write(statement(self._tables.from_json(types)), as_json(part))

    def _write(self, statement: str, value: str) -> None:
        """Executes a statement that writes rows.

        One driver does not tell the number of an error: the server is asked for it.

        Raises:
            RowFaultError: if it is of those that a value can bring about.
        """
        [(number, text)] = self.query(_CAUGHT.format(statement=statement), (value,))
        if not number:
            return
        self._failed = True
        if number >= _RAISED:
            raise RowFaultError(mssql.said(text), f"error {number}, raised by a trigger")
        if number in _ROW_FAULTS:
            raise RowFaultError(mssql.said(text), mssql.said(text))
        raise TargetFaultError(f"database {self.place}: error {number}: {mssql.said(text)}")


_CAUGHT = (
    "BEGIN TRY {statement} SELECT 0, N'' END TRY BEGIN CATCH SELECT ERROR_NUMBER(), ERROR_MESSAGE() END CATCH"
)


def _connect(url: sa.URL) -> Connection:
    """Connects, to a new database if there is none of that name."""
    name = mssql.require_name(url)
    try:
        return mssql.connect(url)
    except MssqlError:
        there = mssql.exists(url)
        if there is None:
            raise
    if not there:  # else somebody has just created it
        _create(url, name)
    return mssql.connect(url)


def _create(url: sa.URL, name: str) -> None:
    try:
        mssql.create(url)
    except MssqlError as error:
        raise TargetFaultError(
            f"database {mssql.shown(url)} does not exist and cannot be created ({error}): "
            f"CREATE DATABASE {mssql.quoted(name)} as a login that may"
        ) from error


@contextmanager
def _faults(place: str) -> Iterator[None]:
    """What the database as a whole refuses."""
    try:
        yield
    except MssqlError as error:
        raise TargetFaultError(f"database {place}: {error}") from error
