"""SQLite as a database to audit.

This is Python's own SQLite. Delivery uses another copy of the library, and two copies in one process do not see
each other's locks: audit in a process that does not deliver.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType, NoneType
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from lpm_stream.audit.canonical import ARROW_TYPES
from lpm_stream.audit.report import KeyPart
from lpm_stream.errors import NoDatabaseError, TargetFaultError
from lpm_stream.feed.spec import Column, ColumnType

BEGIN = "BEGIN"  # the first read then fixes what the transaction sees

_BUSY_SECONDS = 10

# Text arrives as bytearray and a blob as bytes: told apart, and text that is not UTF-8 is no error yet.
_TEXT = bytearray
_STORED_AS: Mapping[ColumnType, type] = MappingProxyType(
    {
        "string": _TEXT,
        "int32": int,
        "int64": int,
        "float64": float,
        "boolean": int,
        "timestamp": _TEXT,
        "date": _TEXT,
        "decimal": _TEXT,
    }
)


def open_read_only(url: sa.URL) -> sa.Engine:
    """An engine on the database file that can only read. With a live writer it sees committed rows alone.

    The one trace it may leave, beside a file in WAL mode that nobody had open, is an empty `-wal` and its `-shm`.

    Raises:
        NoDatabaseError: if there is no such file.
        TargetFaultError: if the URL names no file.
    """
    if not url.database or url.database == ":memory:":
        raise TargetFaultError(f"database {url.render_as_string()} is not a file; use sqlite:///PATH")
    if not Path(url.database).exists():
        raise NoDatabaseError(
            f"database {url.render_as_string()} does not exist; deliver makes it when there are rows"
        )
    uri = f"{Path(url.database).absolute().as_uri()}?mode=ro"

    def connect() -> sqlite3.Connection:
        # DuckDB pulls the rows from a thread of its own, one at a time.
        connection = sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS, check_same_thread=False)
        connection.text_factory = _TEXT
        return connection

    return sa.create_engine("sqlite://", creator=connect, poolclass=sa.NullPool, hide_parameters=True)


def selected(column: Column) -> sa.ColumnElement[Any]:
    """A column as it is: in canonical form, if it was delivered."""
    return sa.column(sa.quoted_name(column.name, quote=True))  # SQLAlchemy does not know all of SQLite's keywords


def is_part(column: Column, part: KeyPart) -> sa.ColumnElement[bool]:
    """Whether a column of the key is a value in canonical form."""
    return selected(column) == part


def array(kind: ColumnType, values: Sequence[Any]) -> tuple[pa.Array, Sequence[int]]:
    """A column's values in canonical form, and the places of those that are not of the contract's type.

    SQLite stores any value in any column. What does not belong becomes NULL here, and is reported by its place.
    """
    expected = _STORED_AS[kind]
    if {expected, NoneType}.issuperset(map(type, values)):
        with suppress(pa.ArrowInvalid):  # text that is not UTF-8
            return pa.array(values, ARROW_TYPES[kind]), ()
    kept = [value if _belongs(value, expected) else None for value in values]
    odd = [place for place, value in enumerate(values) if value is not kept[place]]
    return pa.array(kept, ARROW_TYPES[kind]), odd


def instant(value: datetime) -> str:
    """An aware instant as it is stored: text that sorts by time."""
    return value.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds")


def _belongs(value: Any, expected: type) -> bool:
    if type(value) is not expected:
        return False
    if isinstance(value, bytearray):
        try:
            value.decode()
        except UnicodeDecodeError:
            return False
    return True
