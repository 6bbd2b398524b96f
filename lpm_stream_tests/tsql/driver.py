"""`mssql_python` for company databases whose server is PostgreSQL: as far as it is used."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
import pyarrow as pa
from mssql_python.exceptions import OperationalError, ProgrammingError
from psycopg import sql

from lpm_stream_tests.tsql import server

_NAMED = re.compile(r"%\((\w+)\)s")


class Cursor(server.Cursor):
    """Executes T-SQL."""

    def execute(self, statement: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> None:
        if isinstance(values, Mapping):  # as SQLAlchemy passes them
            values = tuple(values[name] for name in _NAMED.findall(statement))
            statement = _NAMED.sub("?", statement)
        self.run(statement, values)

    def fetchall(self) -> list[tuple[Any, ...]]:
        return self.taken()

    def fetchone(self) -> tuple[Any, ...] | None:
        return next(iter(self.taken(1)), None)

    def fetchmany(self, size: int) -> list[tuple[Any, ...]]:
        return self.taken(size)

    def bulkcopy_arrow(self, table: str, rows: pa.Table, column_mappings: list[str], **_options: Any) -> None:
        """On a connection of its own, as the real one."""
        names = sql.SQL(", ").join(map(sql.Identifier, column_mappings))
        statement = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table), names)
        with psycopg.connect(self.connection.place) as other, other.cursor().copy(statement) as copy:
            for row in rows.to_pylist():
                copy.write_row(tuple(row.values()))


class Connection(server.Connection):
    """A connection."""

    def cursor(self) -> Cursor:
        return Cursor(self)


def connect(connection_string: str, *, autocommit: bool, timeout: int) -> Connection:
    """Connects to the server that the option `socket` tells."""
    place = server.place(connection_string)
    return Connection(place, autocommit=autocommit, refused=_refused, broken=_broken)


def _refused(error: psycopg.Error) -> Exception:
    return ProgrammingError("Syntax error", _said(error))


def _broken(error: psycopg.Error) -> Exception:
    return OperationalError("Communication link failure", _said(error))


def _said(error: psycopg.Error) -> str:
    return f"[Microsoft][ODBC Driver 18 for SQL Server][SQL Server]{server.as_said(error)}"
