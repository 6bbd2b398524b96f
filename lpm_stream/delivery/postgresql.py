"""PostgreSQL as a company database: binary COPY from Arrow into a temporary table, and one statement from there.

Everything happens in one transaction, which locks the watermark's row at its beginning: the right to write.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import adbc_driver_postgresql.dbapi as adbc
import polars as pl
import sqlalchemy as sa
from adbc_driver_manager import Error

from lpm_stream import postgresql
from lpm_stream.delivery.entitled import require_newest
from lpm_stream.delivery.indexes import lacking_indexes, make_indexes
from lpm_stream.delivery.postgresql_schema import fit_to_contract, fit_to_entitlements, fitted
from lpm_stream.delivery.postgresql_tables import DELETES, UPSERTS, PostgresqlTables, stored_type
from lpm_stream.delivery.table_faults import cannot_keep, lost_table, misfit, require_own
from lpm_stream.delivery.watermark import Watermark
from lpm_stream.errors import LeaseLostError, RowFaultError, TargetFaultError
from lpm_stream.feed.schema import CHANGE_TYPE, DELETE
from lpm_stream.feed.spec import FeedSpec

# Nothing hangs for ever: neither in a lock, nor at work, nor with the right to write in hands that do nothing.
_SESSION = (
    "SET lock_timeout = '10s'",
    "SET statement_timeout = '10min'",
    "SET idle_in_transaction_session_timeout = '10min'",
    "SET TimeZone = 'UTC'",
    "SET temp_buffers = '32MB'",  # so that a batch's temporary table stays in memory
    "SET standard_conforming_strings = on",
    "SET client_min_messages = error",
)

# What a value can bring about: data exceptions, broken constraints and views' check options, values too large for
# an index, and a trigger that raises. https://www.postgresql.org/docs/current/errcodes-appendix.html
_ROW_FAULTS = re.compile("22...|23...|44000|54000|P0001")

_Stages = Mapping[str, Mapping[str, str]]  # temporary tables: name to columns, name to type


class PostgresqlDatabase:
    """A company's PostgreSQL database, or schema if its URL sets the `search_path`."""

    def __init__(self, spec: FeedSpec, company: str, url: sa.URL, generation: int = 0) -> None:
        self._spec = spec
        self._generation = generation
        self._company = company
        self._place = postgresql.shown(url)
        self._tables = PostgresqlTables(spec, company)
        self._misfit: str | None = None
        self._stages: _Stages = {}
        with _faults(self._place):
            self._connection = _connect(url)
        try:
            make_indexes(self._tables, self._prepare(), self.transaction)
        except BaseException:
            self._connection.close()
            raise

    @contextmanager
    def transaction(self) -> Iterator["PostgresqlTransaction"]:
        """One transaction; the watermark is locked at its beginning."""
        with self._begun() as transaction:
            transaction.take_right_to_write()
            yield transaction

    def close(self) -> None:
        """Closes the connection."""
        with suppress(Error):  # of one that is broken
            self._connection.close()

    @contextmanager
    def _begun(self) -> Iterator["PostgresqlTransaction"]:
        with _faults(self._place), self._connection.cursor() as cursor:
            transaction = PostgresqlTransaction(
                self._spec,
                self._tables,
                self._place,
                cursor,
                misfit=self._misfit,
                generation=self._generation,
                stages=self._stages,
            )
            cursor.execute("BEGIN")
            try:
                yield transaction
                transaction.require_whole()
                cursor.execute("COMMIT")
            except BaseException:
                with suppress(Error):  # of a connection that is lost: the server rolls back by itself
                    cursor.execute("ROLLBACK")
                raise
            self._stages = transaction.stages

    def _prepare(self) -> list[str]:
        """Makes the tables in a new database; refuses one that is another company's or has lost its table.

        Returns:
            The indexes that the table lacks.
        """
        tables = self._tables
        with self._begun() as transaction:
            transaction.query(tables.begin_preparing)
            [(encoding,)] = transaction.query("SELECT current_setting('server_encoding')")
            if encoding != "UTF8":
                raise TargetFaultError(f"database {self._place} is encoded in {encoding}: create it in UTF8")
            if not transaction.exists(tables.watermark_name):
                transaction.run(tables.create_watermarks)
            if not transaction.exists(tables.entitlement_name):
                transaction.run(tables.create_entitlements)
            require_own(self._company, transaction.query(tables.select_companies), self._place)
            known = transaction.query(tables.lock_watermark)
            lost = bool(known) and not transaction.exists(tables.name)
            if not known:  # also where it was lost: then the stream finds that it lacks what came before
                statements = () if transaction.exists(tables.name) else tables.create
                for statement in (*statements, tables.insert_watermark):
                    transaction.run(statement)
            fit_to_entitlements(self._spec, tables, transaction, self._generation)
            if lost:
                self._misfit = lost_table(self._spec, self._place)
                return []
            problems = fit_to_contract(self._spec, transaction)
            self._misfit = misfit(self._spec, self._place, problems)
            return [] if problems else lacking_indexes(tables, transaction)


class PostgresqlTransaction:
    """One transaction of a company's PostgreSQL database.

    Attributes:
        place: the database, for people.
        stages: the temporary tables that there will be if it is committed.
    """

    def __init__(
        self,
        spec: FeedSpec,
        tables: PostgresqlTables,
        place: str,
        cursor: Any,
        *,
        misfit: str | None,
        generation: int,
        stages: _Stages,
    ) -> None:
        self._spec = spec
        self._tables = tables
        self._cursor = cursor
        self._misfit = misfit
        self._generation = generation
        self._watermark: Watermark | None = None
        self._filled: set[str] = set()
        self.place = place
        self.stages = dict(stages)
        self._failed = False

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
        changes = fitted(self._spec, changes, self, self._tables.name)
        deletes = changes[CHANGE_TYPE] == DELETE
        upserts = changes.filter(~deletes) if deletes.any() else changes
        columns = [name for name in changes.columns if name != CHANGE_TYPE]
        self._land(UPSERTS, upserts.select(columns), self._tables.upsert(self._tables.name, columns))
        self._land(DELETES, changes.filter(deletes).select(self._tables.identity), self._tables.delete)

    def sweep(self, version: int) -> None:
        """Removes rows of earlier versions."""
        self.query(self._tables.sweep, (version,))

    def create_replacement(self) -> None:
        """Makes an empty table beside the company's."""
        self._require_newest()
        for statement in self._tables.create_replacement:
            self.run(statement)

    def fill_replacement(self, rows: pl.DataFrame) -> None:
        """Adds rows to it."""
        self._require_newest()
        name = self._tables.replacement_name
        rows = fitted(self._spec, rows, self, name)
        self._land(UPSERTS, rows, self._tables.upsert(name, rows.columns))

    def drop_replacement(self) -> None:
        """Removes it."""
        self.run(self._tables.drop_replacement)

    def swap(self) -> None:
        """Puts it into the place of the company's table."""
        self._require_newest()
        customers_own = self.query(self._tables.select_customers_own)
        for statement in self._tables.swap:
            self.run(statement)
        for what, statement in customers_own:
            try:
                self.run(statement)
            except Error as error:
                raise cannot_keep(self._spec, self.place, what, _said(error)) from error

    def store(self, watermark: Watermark) -> None:
        """Stores the watermark under the fence."""
        if not self.query(self._tables.update_watermark, watermark.to_row()):
            raise LeaseLostError(f"another worker with a newer lease writes to {self.place}; this one stops")
        self._watermark = watermark

    def drop(self) -> None:
        """Removes the company's rows, and the watermark."""
        for statement in self._tables.drop_all:
            self.run(statement)

    def require_whole(self) -> None:
        """Raises TargetFaultError if a statement has failed: COMMIT would roll back then, and not say so."""
        if self._failed:
            raise TargetFaultError(f"database {self.place}: a statement of the transaction had failed")

    def exists(self, table: str) -> bool:
        """Whether there is such a table."""
        return bool(self.query(self._tables.exists(table))[0][0])

    def run(self, statement: str) -> None:
        """Executes a statement without a result."""
        with self._noted():
            self._cursor.execute(statement)

    def query(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Executes a statement and returns its rows."""
        with self._noted():
            self._cursor.execute(statement, values or None)
            return list(self._cursor.fetchall())

    def _require_newest(self) -> None:
        require_newest(self._generation, self.query(self._tables.select_entitlement), self.place)

    def _land(self, stage: str, rows: pl.DataFrame, statement: str) -> None:
        """Copies rows into a temporary table, and has a statement take them from there."""
        if rows.is_empty():
            return
        self._clear(stage, rows.schema)
        with self._row_faults():
            self._cursor.adbc_ingest(stage, rows.to_arrow(), mode="append", temporary=True)
            self._cursor.execute(statement)

    def _clear(self, stage: str, schema: Mapping[str, pl.DataType]) -> None:
        """Makes sure that the temporary table is there, and empty.

        It stays as long as the connection: one for each transaction would fill the system's catalogue.
        """
        columns = {name: stored for name, dtype in schema.items() if (stored := stored_type(dtype))}
        if self.stages.get(stage) != columns:
            for statement in self._tables.create_stage(stage, columns):
                self.run(statement)
            self.stages[stage] = columns
        elif stage in self._filled:
            self.run(f"TRUNCATE pg_temp.{postgresql.quoted(stage)}")
        self._filled.add(stage)

    @contextmanager
    def _row_faults(self) -> Iterator[None]:
        """What a value can bring about is the fault of a row."""
        try:
            with self._noted():
                yield
        except Error as error:
            if _ROW_FAULTS.fullmatch(error.sqlstate or ""):
                raise RowFaultError(_said(error), _rule(error)) from error
            raise

    @contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except Error:
            self._failed = True
            raise


def _connect(url: sa.URL) -> Any:
    """Connects, to a new database if there is none of that name."""
    name = postgresql.require_name(url)
    try:
        connection = adbc.connect(postgresql.connection_string(url), autocommit=True)
    except Error:
        there = postgresql.exists(url)
        if there is None:
            raise
        if not there:  # else somebody has just created it
            _create(url, name)
        connection = adbc.connect(postgresql.connection_string(url), autocommit=True)
    try:
        with connection.cursor() as cursor:
            for statement in _SESSION:
                cursor.execute(statement)
    except BaseException:
        connection.close()
        raise
    return connection


def _create(url: sa.URL, name: str) -> None:
    import psycopg  # noqa: PLC0415 - seldom needed

    try:
        postgresql.create(url)
    except psycopg.Error as error:
        said = str(error).splitlines()[0]
        raise TargetFaultError(
            f"database {postgresql.shown(url)} does not exist and cannot be created ({said}): "
            f"CREATE DATABASE {postgresql.quoted(name)} as a role that may"
        ) from error


@contextmanager
def _faults(place: str) -> Iterator[None]:
    """What the database as a whole refuses."""
    try:
        yield
    except Error as error:
        is_of_a_row = _ROW_FAULTS.fullmatch(error.sqlstate or "")  # as where a trigger refuses a delete
        said = _rule(error) if is_of_a_row else _said(error)
        raise TargetFaultError(f"database {place}: {said}") from error


def _rule(error: Error) -> str:
    """What a row breaks, such as NotNullViolation (23502) of column note."""
    from psycopg import errors  # noqa: PLC0415 - seldom needed

    state = error.sqlstate or ""
    try:
        name = errors.lookup(state).__name__
    except KeyError:
        name = "error"
    details = dict(error.details or ())
    parts = (("column", "PG_DIAG_COLUMN_NAME"), ("constraint", "PG_DIAG_CONSTRAINT_NAME"))
    where = [f"{what} {details[key].decode(errors='replace')}" for what, key in parts if key in details]
    return f"{name} ({state})" + (f" of {where[0]}" if where else "")


def _said(error: Error) -> str:
    """The server's own message, without the details beside it: those quote rows."""
    for name, value in error.details or ():
        if name == "PG_DIAG_MESSAGE_PRIMARY":
            return value.decode(errors="replace")
    found = re.search(r"(?:ERROR|FATAL):\s+(.*)", str(error))
    return found[1] if found else str(error).splitlines()[0]
