"""PostgreSQL as a database to audit."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType, NoneType
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from lpm_stream.audit.canonical import ARROW_TYPES
from lpm_stream.audit.report import KeyPart
from lpm_stream.audit.sql import quoted
from lpm_stream.errors import LpmStreamError, NoDatabaseError
from lpm_stream.feed.spec import Column, ColumnType
from lpm_stream.postgresql import DRIVER_MISSING, connection_string, exists, require_name, shown

BEGIN = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"

_SESSION = (
    "SET lock_timeout = '10s'; SET statement_timeout = '10min'; SET idle_in_transaction_session_timeout = '1h'; "
    "SET TimeZone = 'UTC'; SET default_transaction_read_only = on"
)
_DELIVERED_AS: Mapping[ColumnType, type] = MappingProxyType(
    {
        "string": str,
        "int32": int,
        "int64": int,
        "float64": float,
        "boolean": int,
        "timestamp": str,
        "date": str,
        "decimal": str,
    }
)
_TYPES: Mapping[ColumnType, sa.types.TypeEngine[Any]] = MappingProxyType(
    {"string": sa.Text(), "int32": sa.BigInteger(), "int64": sa.BigInteger(), "float64": sa.Double()}
)


def open_read_only(url: sa.URL) -> sa.Engine:
    """An engine that can only read.

    Its first connection raises NoDatabaseError if the server has no such database.

    Raises:
        TargetFaultError: if the URL names no database.
        LpmStreamError: if the driver is not installed.
    """
    try:
        import psycopg  # noqa: PLC0415 - only where it is needed is it installed
    except ImportError as error:
        raise LpmStreamError(DRIVER_MISSING) from error
    require_name(url)

    def connect() -> psycopg.Connection:
        try:
            connection = psycopg.connect(connection_string(url), autocommit=True)
        except psycopg.OperationalError as error:
            if exists(url) is False:
                raise NoDatabaseError(
                    f"database {shown(url)} does not exist; deliver makes it when there are rows"
                ) from error
            raise
        connection.execute(_SESSION)
        connection.autocommit = False
        return connection

    return sa.create_engine("postgresql+psycopg://", creator=connect, poolclass=sa.NullPool, hide_parameters=True)


def selected(column: Column) -> sa.ColumnElement[Any]:
    """A column in canonical form."""
    name = quoted(column.name)
    match column.type:
        case "timestamp":
            return _text(column, f"{name} AT TIME ZONE 'UTC'", 'YYYY-MM-DD"T"HH24:MI:SS.US')
        case "date":
            return _text(column, name, "YYYY-MM-DD")
        case "boolean":
            return sa.literal_column(f"CAST({name} AS integer)").label(column.name)
        case "decimal":
            return sa.literal_column(f"CAST({name} AS text)").label(column.name)
        case _:
            return sa.column(column.name, _TYPES[column.type])


def is_part(column: Column, part: KeyPart) -> sa.ColumnElement[bool]:
    """Whether a column of the key is a value in canonical form. For texts and numbers an index can tell."""
    if isinstance(part, str) and "\0" in part:  # which PostgreSQL does not even take as a parameter
        return sa.false()
    if column.type in _TYPES:
        return selected(column) == part
    return (
        sa.type_coerce(selected(column).element, sa.Text() if isinstance(part, str) else sa.BigInteger()) == part
    )


def instant(value: datetime) -> datetime:
    """An aware instant as it is stored."""
    return value


def array(kind: ColumnType, values: Sequence[Any]) -> tuple[pa.Array, Sequence[int]]:
    """A column's values in canonical form, and the places of those that are not of the contract's type."""
    expected = _DELIVERED_AS[kind]
    if {expected, NoneType}.issuperset(map(type, values)):
        return pa.array(values, ARROW_TYPES[kind]), ()
    kept = [value if type(value) is expected else None for value in values]
    odd = [place for place, value in enumerate(values) if value is not kept[place]]
    return pa.array(kept, ARROW_TYPES[kind]), odd


def _text(column: Column, value: str, form: str) -> sa.ColumnElement[Any]:
    """A day or an instant as text; what is outside of the years 1 to 9999, as to_char would not say, looks odd."""
    name = quoted(column.name)
    return sa.literal_column(
        f"CASE WHEN {name} >= DATE '0001-01-01' AND {name} < DATE '10000-01-01' "
        f"THEN to_char({value}, '{form}') ELSE CAST({name} AS text) END"
    ).label(column.name)
