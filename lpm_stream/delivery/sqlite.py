"""SQLite as a company database: rows go from Arrow into place, each under the row guard.

Everything here uses ADBC's SQLite. Python's own `sqlite3` must not open the same file in the same process: two
copies of the library do not see each other's locks.
"""

import logging
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import adbc_driver_sqlite.dbapi as adbc
import polars as pl
import polars.selectors as cs
import pyarrow as pa
import pyarrow.compute as pc
from adbc_driver_manager import Error, IntegrityError, InternalError

from lpm_stream.delivery.entitled import entitled, require_newest
from lpm_stream.delivery.indexes import drop_indexes_on, lacking_indexes, make_indexes
from lpm_stream.delivery.table_faults import cannot_keep, key_problems, lost_table, misfit, require_own
from lpm_stream.delivery.tables import SqliteTables
from lpm_stream.delivery.watermark import Watermark
from lpm_stream.errors import LeaseLostError, RowFaultError, TargetFaultError
from lpm_stream.feed.schema import CHANGE_TYPE, COMMIT_VERSION, DELETE, declared_type, polars_type
from lpm_stream.feed.spec import FeedSpec

log = logging.getLogger(__name__)

_INSTANT = pa.timestamp("us", tz="UTC")
_CONSTRAINT = re.compile(r"(NOT NULL|CHECK|UNIQUE|FOREIGN KEY) constraint failed(: [\w. ,]+)?")
_BUSY_MILLISECONDS = 2_000
_OPENING_SECONDS = 1.0  # how long others may take to open the same new file
_PRAGMAS = (
    f"PRAGMA busy_timeout = {_BUSY_MILLISECONDS}",
    "PRAGMA page_size = 8192",  # a tenth less work for large batches than with 4096
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA legacy_alter_table = ON",  # so that a table can be swapped that a view is on
)


class SqliteDatabase:
    """A company's SQLite file."""

    def __init__(self, spec: FeedSpec, company: str, path: str, generation: int = 0) -> None:
        self._spec = spec
        self._generation = generation
        self._company = company
        self._path = path
        self._tables = SqliteTables(spec, company)
        self._misfit: str | None = None
        with _faults(path):
            self._connection = _connect(path)
            self._file = _file(path)
        try:
            make_indexes(self._tables, self._prepare(), self.transaction)
        except BaseException:
            self._connection.close()
            raise

    @contextmanager
    def transaction(self) -> Iterator["SqliteTransaction"]:
        """One transaction; the write lock is taken at its beginning."""
        with _faults(self._path), self._connection.cursor() as cursor:
            if _file(self._path) != self._file:  # SQLite would go on writing to the removed one
                raise TargetFaultError(f"database {self._path} was replaced while it was open")
            cursor.execute("BEGIN IMMEDIATE")
            try:
                transaction = SqliteTransaction(
                    self._spec, self._tables, self._path, cursor, self._misfit, self._generation
                )
                yield transaction
                cursor.execute("COMMIT")
                if transaction.has_dropped:
                    self._scrub(cursor)
            except BaseException:
                with suppress(Error):  # SQLite has rolled back by itself after some errors, a full disk among them
                    cursor.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

    def _scrub(self, cursor: Any) -> None:
        """Writes the file anew: its free space holds what was dropped, and what was moved about before.

        Until that has succeeded the database says that it is to be done, to whoever opens it next.
        """
        try:
            self._checkpoint(cursor)  # first: beside a reader each VACUUM would make the log longer
            cursor.execute("VACUUM")
            self._checkpoint(cursor)
            cursor.execute(self._tables.is_scrubbed)
            cursor.execute("PRAGMA secure_delete = OFF")
            cursor.fetchall()
        except Error as error:
            raise self._unscrubbed(str(error).splitlines()[0]) from error

    def _checkpoint(self, cursor: Any) -> None:
        """Moves everything from the log into the file; raises if a reader keeps it from that."""
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        [(is_busy, *_)] = cursor.fetchall()
        if is_busy:
            raise self._unscrubbed("somebody is reading it, who has to end that")

    def _unscrubbed(self, why: str) -> TargetFaultError:
        return TargetFaultError(
            f"database {self._path}: what was dropped is gone from its tables, but its files may still hold it "
            f"({why}): do the same again; whoever opens it next tries it, too"
        )

    def _prepare(self) -> list[str]:
        """Makes the tables in a new database; refuses one that is another company's or has lost its table.

        Returns:
            The indexes that the table lacks.
        """
        with self.transaction() as transaction:
            tables = transaction.query("SELECT name FROM sqlite_schema WHERE type = 'table'")
            names = {name for (name,) in tables}
            if self._tables.watermark_name not in names:
                transaction.run(self._tables.create_watermarks)
            if self._tables.entitlement_name not in names:
                transaction.run(self._tables.create_entitlements)
            require_own(self._company, transaction.query(self._tables.select_companies), self._path)
            if self._tables.to_scrub_name in names:
                transaction.drop_for_good()
            known = transaction.query(self._tables.select_watermark)
            if not known:  # also where it was lost: then the stream finds that it lacks what came before
                statements = () if self._spec.name in names else self._tables.create
                for statement in (*statements, self._tables.insert_watermark):
                    transaction.run(statement)
            transaction.fit_to_entitlements()
            if known and self._spec.name not in names:
                self._misfit = lost_table(self._spec, self._path)
                return []
            self._misfit = transaction.fit_to_contract()
            return [] if self._misfit else lacking_indexes(self._tables, transaction)


class SqliteTransaction:
    """One transaction of a company's SQLite file.

    Attributes:
        place: the file, for people.
        has_dropped: whether what is gone has to be gone from the file, too.
    """

    def __init__(  # noqa: PLR0917 - what it shares with the database
        self,
        spec: FeedSpec,
        tables: SqliteTables,
        place: str,
        cursor: Any,
        misfit: str | None,
        generation: int,
    ) -> None:
        self._spec = spec
        self._tables = tables
        self.place = place
        self._cursor = cursor
        self._misfit = misfit
        self._generation = generation
        self.has_dropped = False

    def watermark(self) -> Watermark:
        """What the database has applied."""
        rows = self.query(self._tables.select_watermark)
        if not rows:
            raise TargetFaultError(f"database {self.place} has lost its watermark; restore it")
        return Watermark.from_row(rows[0])

    def merge(self, changes: pl.DataFrame) -> None:
        """Applies changes under the row guard."""
        if self._misfit:
            raise TargetFaultError(self._misfit)
        changes = self._take_in_new_columns(changes, replacement=False)
        deletes = changes[CHANGE_TYPE] == DELETE
        upserts = changes.filter(~deletes) if deletes.any() else changes
        columns = [name for name in changes.columns if name != CHANGE_TYPE]
        self._run_for_each(self._tables.upsert(columns), upserts.select(columns))
        self._run_for_each(self._tables.delete, changes.select(self._tables.identity).filter(deletes))

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
        rows = self._take_in_new_columns(rows, replacement=True)
        self._run_for_each(self._tables.upsert(rows.columns, replacement=True), rows)

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
                raise cannot_keep(self._spec, self.place, what, str(error).splitlines()[0]) from error

    def store(self, watermark: Watermark) -> None:
        """Stores the watermark under the fence."""
        values = (*watermark.to_row(), watermark.fence)
        if not self.query(self._tables.update_watermark, values):
            raise LeaseLostError(f"another worker with a newer lease writes to {self.place}; this one stops")

    def drop(self) -> None:
        """Removes the company's rows, and the watermark."""
        self.drop_for_good()
        for statement in self._tables.drop_all:
            self.run(statement)

    def fit_to_entitlements(self) -> None:
        """Drops columns that the company may not get any more, and what a backfill has built with others."""
        stored = self._require_newest()
        withheld = set(self._spec.withheld)
        drop_indexes_on(self._tables, self, withheld)
        for name in self._names() & withheld:
            self.drop_for_good()
            self.run(self._tables.drop_column(name))
            log.info("%s: column %s dropped from table %s", self.place, name, self._spec.name)
        built = self._names(replacement=True)
        if built and (self._generation > stored or built & withheld):
            self.drop_for_good()
            self.drop_replacement()
        if self._generation > stored:
            self.run(self._tables.store_entitlement(self._generation))

    def _require_newest(self) -> int:
        """The generation of entitlements that the database has; raises if this one is older."""
        return require_newest(self._generation, self.query(self._tables.select_entitlement), self.place)

    def _names(self, *, replacement: bool = False) -> set[str]:
        return {name for name, _, _ in self.query(self._tables.select_columns(replacement=replacement))}

    def drop_for_good(self) -> None:
        """Has what is dropped from here on overwritten; that would cost too much wherever rows are updated."""
        self.query("PRAGMA secure_delete = ON")
        self.run(self._tables.is_to_be_scrubbed)
        self.has_dropped = True

    def fit_to_contract(self) -> str | None:
        """Adds columns that the contract has gained; returns what else keeps the table from holding its rows."""
        stored = {name: (dtype, bool(needed)) for name, dtype, needed in self.query(self._tables.select_columns())}
        problems = []
        for column in self._spec.columns:
            wanted = self._tables.stored_type(column.type)
            dtype, needed = stored.pop(column.name, ("", False))
            if not dtype and column.nullable:
                self.run(self._tables.add_column(column.name, polars_type(column)))
            elif dtype != wanted:
                problems.append(f"column {column.name} is {dtype or 'missing'}, the contract says {column.type}")
            elif needed and column.nullable:
                problems.append(f"column {column.name} is NOT NULL, the contract says nullable")
        stored.pop(COMMIT_VERSION, None)
        problems += [f"column {name} is NOT NULL and not in the contract" for name in stored if stored[name][1]]
        problems += key_problems(self._spec, [name for (name,) in self.query(self._tables.select_key)])
        return misfit(self._spec, self.place, problems)

    def run(self, statement: str) -> None:
        """Executes a statement without a result."""
        self._cursor.execute(statement)

    def query(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Executes a statement and returns its rows."""
        self._cursor.execute(statement, values)
        return list(self._cursor.fetchall())

    def _run_for_each(self, statement: str, rows: pl.DataFrame) -> None:
        """Executes a statement for each row; ADBC binds them from Arrow, row by row, without Python objects."""
        if rows.is_empty():
            return
        text = rows.with_columns(cs.decimal().cast(pl.String))  # Arrow would write 1E-10
        arrow = text.to_arrow(compat_level=pl.CompatLevel.newest())  # without copying strings
        try:
            self._cursor.executemany(statement, pa.table(list(map(_stored, arrow.columns)), arrow.column_names))
        except IntegrityError as error:
            raise _row_fault(error) from error
        except InternalError as error:
            # So ADBC reports whatever fails at any row but the last; a row that fails alone shows what it is.
            if rows.height == 1:
                raise
            raise _row_fault(error) from error

    def _take_in_new_columns(self, changes: pl.DataFrame, *, replacement: bool) -> pl.DataFrame:
        """Adds columns that the source has gained; the publisher has decided that they are to be delivered.

        One that is null throughout may come without a type: it waits for its first value.
        """
        columns = self.query(self._tables.select_columns(replacement=replacement))
        stored = {name: dtype for name, dtype, _ in columns}
        changes = entitled(self._spec, changes, stored, self.place)
        arriving = {
            name: found for name, found in changes.schema.items() if name not in (COMMIT_VERSION, CHANGE_TYPE)
        }
        for name, found in arriving.items():
            if found == pl.Null():
                continue
            dtype = declared_type(found)
            if dtype is None:
                raise TargetFaultError(f"column {name} of type {found} has no SQLite type")
            wanted = self._tables.stored_type(dtype)
            if stored.get(name, wanted) != wanted:
                raise TargetFaultError(
                    f"column {name} is {stored[name]} in table {self._spec.name} of {self.place}, but {dtype} in "
                    f"the source now; build the table anew with lpm-stream backfill COMPANY --replace"
                )
            if name not in stored:
                self.run(self._tables.add_column(name, found, replacement=replacement))
                log.info("%s: column %s added to table %s", self.place, name, self._spec.name)
        untyped = (name for name, found in arriving.items() if found == pl.Null() and name not in stored)
        return changes.drop(untyped)


def _row_fault(error: Error) -> RowFaultError:
    """SQLite itself quotes no values; a trigger says what it likes."""
    found = _CONSTRAINT.search(str(error))
    return RowFaultError(str(error), found[0] if found else "a trigger, or a value that it has no type for")


def _stored(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column as it is stored: instants and dates as text, which SQLite has no types for.

    ADBC would write the same text of instants and dates, but takes five times as long.
    """
    if values.type == _INSTANT:
        text = values.cast(pa.timestamp("us")).cast(pa.string())  # with a space between date and time
        return pc.binary_replace_slice(text, 10, 11, "T")
    if pa.types.is_date(values.type):
        return values.cast(pa.string())
    return values


def _file(path: str) -> tuple[int, int]:
    """What tells a file from another of the same name."""
    found = Path(path).stat()
    return found.st_dev, found.st_ino


def _connect(path: str) -> Any:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    connection = adbc.connect(path, autocommit=True)
    try:
        with connection.cursor() as cursor:
            for pragma in _PRAGMAS:
                _execute_patiently(cursor, pragma)
    except BaseException:
        connection.close()
        raise
    return connection


def _execute_patiently(cursor: Any, pragma: str) -> None:
    """SQLite does not wait for others that open the same new file at this moment, whatever its busy timeout."""
    deadline = time.monotonic() + _OPENING_SECONDS
    while True:
        try:
            cursor.execute(pragma)
            cursor.fetchall()
        except Error as error:  # ADBC has several for it
            if "database is locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


@contextmanager
def _faults(path: str) -> Iterator[None]:
    """What the database as a whole refuses."""
    try:
        yield
    except IntegrityError as error:  # as where a trigger refuses a delete
        raise TargetFaultError(f"database {path}: {_row_fault(error).rule}") from error
    except (Error, OSError) as error:
        raise TargetFaultError(f"database {path}: {str(error).splitlines()[0]}") from error
