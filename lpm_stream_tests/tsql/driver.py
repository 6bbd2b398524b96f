"""A driver for company databases of SQL Server whose server is PostgreSQL: the DB-API as far as it is used."""

import re
from collections.abc import Sequence
from typing import Any

import psycopg
import pyarrow as pa
from psycopg import sql

from lpm_stream_tests.tsql.translate import PRELUDE, translated

_CAUGHT = re.compile(r"BEGIN TRY (.*) SELECT 0, N'' END TRY BEGIN CATCH .* END CATCH", re.DOTALL)
_NUMBERS = {"23505": 2627, "23502": 515, "23514": 547, "22001": 2628, "22003": 8115, "P0001": 50_000}


class Cursor:
    """Executes T-SQL."""

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection
        self._rows: list[tuple[Any, ...]] = []
        self.description: object = None

    def execute(self, statement: str, values: Sequence[Any] = ()) -> None:
        if found := _CAUGHT.fullmatch(statement):
            try:
                self._run(found[1], values)
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
        self.description = None
        for one in translated(statement):
            found = self._connection.server.execute(one.encode(), values or None)
            if found.description:
                self.description, self._rows = found.description, found.fetchall()

    def fetchall(self) -> list[tuple[Any, ...]]:
        return self._rows

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
        self.server.commit()

    def rollback(self) -> None:
        self.server.rollback()

    def close(self) -> None:
        self.server.close()


def connect(connection_string: str, *, autocommit: bool, timeout: int) -> Connection:
    """Connects to the server whose socket's directory is the option `socket`."""
    given = dict(re.findall(r"(\w+)=\{([^}]*)\};", connection_string))
    place = f"host={given['socket']} dbname={given['Database']} user={given['UID']}"
    return Connection(place, autocommit=autocommit)
