"""A driver for company databases of SQL Server whose server is PostgreSQL: the DB-API as far as it is used."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psycopg
import pyarrow as pa
from mssql_python.exceptions import OperationalError, ProgrammingError
from psycopg import sql

from lpm_stream_tests.tsql.translate import PRELUDE, translated

_CAUGHT = re.compile(r"BEGIN TRY (.*) SELECT 0, N'' END TRY BEGIN CATCH .* END CATCH", re.DOTALL)
_NAMED = re.compile(r"%\((\w+)\)s")
_NUMBERS = {"23505": 2627, "23502": 515, "23514": 547, "22001": 2628, "22003": 8115, "P0001": 50_000}


class Cursor:
    """Executes T-SQL."""

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection
        self._rows: list[tuple[Any, ...]] = []
        self.description: object = None
        self.rowcount = -1

    def execute(self, statement: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> None:
        if isinstance(values, Mapping):  # as SQLAlchemy passes them
            values = tuple(values[name] for name in _NAMED.findall(statement))
            statement = _NAMED.sub("?", statement)
        if found := _CAUGHT.fullmatch(statement):
            try:
                self._translated(found[1], values)
            except psycopg.Error as error:
                said = str(error).splitlines()[0]
                self._rows = [(_NUMBERS.get(error.sqlstate or "", 1105), said)]
            else:
                self._rows = [(0, "")]
            self.description = self._rows
            return
        if statement.startswith("SET XACT_ABORT ON"):
            statement = "SELECT 1"
        self._run(statement, values)

    def _run(self, statement: str, values: Sequence[Any]) -> None:
        try:
            self._translated(statement, values)
        except psycopg.Error as error:
            raise ProgrammingError("Syntax error", _as_said(error)) from error

    def _translated(self, statement: str, values: Sequence[Any]) -> None:
        self.description = None
        for one in translated(statement):
            found = self._connection.server.execute(one.encode(), values or None)
            if found.description:
                self.description = [(one.name, str, None, None, None, None, None) for one in found.description]
                self._rows = found.fetchall()

    def fetchall(self) -> list[tuple[Any, ...]]:
        rows, self._rows = self._rows, []
        return rows

    def fetchone(self) -> tuple[Any, ...] | None:
        return self._rows.pop(0) if self._rows else None

    def fetchmany(self, size: int) -> list[tuple[Any, ...]]:
        rows, self._rows = self._rows[:size], self._rows[size:]
        return rows

    def bulkcopy_arrow(self, table: str, rows: pa.Table, column_mappings: list[str], **_options: Any) -> None:
        """On a connection of its own, as the real one."""
        names = sql.SQL(", ").join(map(sql.Identifier, column_mappings))
        statement = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table), names)
        with psycopg.connect(self._connection.place) as other, other.cursor().copy(statement) as copy:
            for row in rows.to_pylist():
                copy.write_row(tuple(row.values()))

    def close(self) -> None:
        self._rows = []


class Connection:
    """A connection; T-SQL in, PostgreSQL behind."""

    timeout = 0

    def __init__(self, place: str, *, autocommit: bool) -> None:
        self.place = place
        self.server = psycopg.connect(place, autocommit=True)
        with self.server.transaction():
            self.server.execute("SELECT pg_advisory_xact_lock(0)")
            if not self.server.execute("SELECT 1 FROM pg_namespace WHERE nspname = 'tsql'").fetchone():
                self.server.execute(PRELUDE)
        self.server.execute("SET search_path = public, tsql; SET lock_timeout = '10s'")
        self.server.autocommit = autocommit

    def cursor(self) -> Cursor:
        return Cursor(self)

    def commit(self) -> None:
        self._end(self.server.commit)

    def rollback(self) -> None:
        self._end(self.server.rollback)

    def _end(self, how: Callable[[], None]) -> None:
        try:
            how()
        except psycopg.Error as error:
            raise OperationalError("Communication link failure", _as_said(error)) from error

    def close(self) -> None:
        self.server.close()


def connect(connection_string: str, *, autocommit: bool, timeout: int) -> Connection:
    """Connects to the server whose socket's directory is the option `socket`."""
    given = dict(re.findall(r"(\w+)=\{([^}]*)\};", connection_string))
    name = "postgres" if given["Database"] == "master" else given["Database"]
    place = f"host={given['socket']} dbname={name} user={given['UID']}"
    try:
        return Connection(place, autocommit=autocommit)
    except psycopg.Error as error:
        raise OperationalError("Cannot open the database", _as_said(error)) from error


def _as_said(error: psycopg.Error) -> str:
    return f"[Microsoft][ODBC Driver 18 for SQL Server][SQL Server]{str(error).splitlines()[0]}"
