"""`pyodbc` for company databases whose server is PostgreSQL: stands in for the module, as far as it is used.

What it does as pyodbc 5.5: parameters by position, rows that are no tuples, no bulk copy, zones of instants
dropped, and errors of a state and a text that names it again.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, overload

import psycopg

from lpm_stream_tests.tsql import server

version = "5.5.0"
paramstyle = "qmark"
pooling = True
SQL_VARCHAR, SQL_WVARCHAR = 12, -9
STRING, NUMBER, DATETIME = str, float, datetime


class Error(Exception):
    """What all errors are."""


class ProgrammingError(Error):
    """A statement that the server refuses."""


class OperationalError(Error):
    """A connection that is no good."""


class Row(Sequence[Any]):
    """A row: no tuple, and equal to none."""

    def __init__(self, values: tuple[Any, ...]) -> None:
        self._values = values

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        return self._values[index]

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values)


class Cursor(server.Cursor):
    """Executes T-SQL."""

    def execute(self, statement: str, *values: Any) -> "Cursor":
        """The values one by one, or as one sequence."""
        if len(values) == 1 and isinstance(values[0], list | tuple):
            [values] = values
        self.run(statement, [_bound(value) for value in values])
        return self

    def setinputsizes(self, sizes: Sequence[tuple[int | None, int | None, int | None]]) -> None:
        assert all(len(size) == 3 for size in sizes)

    def fetchall(self) -> list[Row]:
        if self.description is None:
            raise ProgrammingError("HY000", "No results.  Previous SQL was not a query.")
        return [Row(row) for row in self.taken()]

    def fetchone(self) -> Row | None:
        return next((Row(row) for row in self.taken(1)), None)

    def fetchmany(self, size: int) -> list[Row]:
        return [Row(row) for row in self.taken(size)]


class Connection(server.Connection):
    """A connection."""

    def cursor(self) -> Cursor:
        return Cursor(self)

    def add_output_converter(self, sqltype: int, _converter: object) -> None:
        assert sqltype == -155  # DATETIMEOFFSET, in which we store nothing


def connect(connection_string: str, *, autocommit: bool, timeout: int) -> Connection:
    """Connects to the server that the option `socket` tells."""
    assert "Driver={ODBC Driver 18 for SQL Server};" in connection_string
    place = server.place(connection_string)
    return Connection(place, autocommit=autocommit, refused=_refused, broken=_broken)


def _bound(value: Any) -> Any:
    return value.replace(tzinfo=None) if isinstance(value, datetime) else value


def _refused(error: psycopg.Error) -> Exception:
    return ProgrammingError("42000", _said("42000", error, "(102) (SQLExecDirectW)"))


def _broken(error: psycopg.Error) -> Exception:
    return OperationalError("08S01", _said("08S01", error, "(0) (SQLDriverConnect)"))


def _said(state: str, error: psycopg.Error, place: str) -> str:
    return f"[{state}] [Microsoft][ODBC Driver 18 for SQL Server][SQL Server]{server.as_said(error)} {place}"
