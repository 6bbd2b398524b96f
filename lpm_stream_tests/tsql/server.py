"""SQL Server, whose server is PostgreSQL: what the drivers of it have in common, as far as they are used."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import psycopg

from lpm_stream_tests.tsql.translate import PRELUDE, translated

_CAUGHT = re.compile(r"BEGIN TRY (.*) SELECT 0, N'' END TRY BEGIN CATCH .* END CATCH", re.DOTALL)
_NUMBERS = {"23505": 2627, "23502": 515, "23514": 547, "22001": 2628, "22003": 8115, "P0001": 50_000}

Raised = Callable[[psycopg.Error], Exception]


class Cursor:
    """Executes T-SQL."""

    def __init__(self, connection: "Connection") -> None:
        self.connection = connection
        self._rows: list[tuple[Any, ...]] = []
        self.description: object = None
        self.rowcount = -1

    def run(self, statement: str, values: Sequence[Any]) -> None:
        """Executes statements, with question marks for the values."""
        if found := _CAUGHT.fullmatch(statement):
            try:
                self._translated(found[1], values)
            except psycopg.Error as error:
                self._rows = [(_NUMBERS.get(error.sqlstate or "", 1105), as_said(error))]
            else:
                self._rows = [(0, "")]
            self.description = self._rows
            return
        if statement.startswith("SET XACT_ABORT ON"):
            statement = "SELECT 1"
        try:
            self._translated(statement, values)
        except psycopg.Error as error:
            raise self.connection.refused(error) from error

    def _translated(self, statement: str, values: Sequence[Any]) -> None:
        self.description = None
        for one in translated(statement):
            found = self.connection.server.execute(one.encode(), values or None)
            if found.description:
                self.description = [(one.name, str, None, None, None, None, None) for one in found.description]
                self._rows = found.fetchall()

    def taken(self, size: int | None = None) -> list[tuple[Any, ...]]:
        """The next rows, or all."""
        size = len(self._rows) if size is None else size
        rows, self._rows = self._rows[:size], self._rows[size:]
        return rows

    def close(self) -> None:
        self._rows = []


class Connection:
    """A connection; T-SQL in, PostgreSQL behind."""

    timeout = 0

    def __init__(self, place: str, *, autocommit: bool, refused: Raised, broken: Raised) -> None:
        self.place = place
        self.refused, self._broken = refused, broken  # what the driver raises of a statement, and a connection
        try:
            self.server = psycopg.connect(place, autocommit=True)
        except psycopg.Error as error:
            raise broken(error) from error
        with self.server.transaction():
            self.server.execute("SELECT pg_advisory_xact_lock(0)")
            if not self.server.execute("SELECT 1 FROM pg_namespace WHERE nspname = 'tsql'").fetchone():
                self.server.execute(PRELUDE)
        self.server.execute("SET search_path = public, tsql; SET lock_timeout = '10s'")
        self.server.autocommit = autocommit

    def commit(self) -> None:
        self._end(self.server.commit)

    def rollback(self) -> None:
        self._end(self.server.rollback)

    def _end(self, how: Callable[[], None]) -> None:
        try:
            how()
        except psycopg.Error as error:
            raise self._broken(error) from error

    def close(self) -> None:
        self.server.close()


def place(connection_string: str) -> str:
    """Where the server is: its socket's directory is the option `socket`."""
    given = dict(re.findall(r"(\w+)=\{([^}]*)\};", connection_string))
    name = "postgres" if given["Database"] == "master" else given["Database"]
    return f"host={given['socket']} dbname={name} user={given['UID']}"


def as_said(error: psycopg.Error) -> str:
    """What the server says, in one line."""
    return str(error).splitlines()[0]
