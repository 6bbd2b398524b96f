"""SQL Server as a database to audit."""

from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa

from lpm_stream import mssql
from lpm_stream.audit.report import KeyPart
from lpm_stream.errors import NoDatabaseError
from lpm_stream.feed.spec import Column, ColumnType
from lpm_stream.mssql import quoted

# One that does not allow it says so, and how to (error 3952). Azure SQL does, and so does what we have created.
BEGIN = "SET TRANSACTION ISOLATION LEVEL SNAPSHOT"

_TYPES: Mapping[ColumnType, sa.types.TypeEngine[Any]] = MappingProxyType(
    {"string": sa.Unicode(), "int32": sa.BigInteger(), "int64": sa.BigInteger(), "float64": sa.Double()}
)


def open_read_only(url: sa.URL) -> sa.Engine:
    """An engine for reading. SQL Server has no session that cannot write: nothing here does.

    Its first connection raises NoDatabaseError if the server has no such database.

    Raises:
        TargetFaultError: if the URL names no database.
        LpmStreamError: if the driver is not installed.
    """
    mssql.require_name(url)
    _, errors = mssql.driver(url)

    def connect() -> Any:
        try:
            return mssql.connect_raw(url)
        except errors as error:
            if mssql.exists(url) is False:
                raise NoDatabaseError(
                    f"database {mssql.shown(url)} does not exist; deliver makes it when there are rows"
                ) from error
            raise

    return sa.create_engine(
        f"{url.drivername}://",
        creator=connect,
        poolclass=sa.NullPool,
        hide_parameters=True,
        supports_comments=False,
    )


def selected(column: Column) -> sa.ColumnElement[Any]:
    """A column in canonical form."""
    name = quoted(column.name)
    match column.type:
        case "timestamp":  # style 121: yyyy-mm-dd hh:mi:ss and all digits of the fraction
            return sa.literal_column(f"REPLACE(CONVERT(nvarchar(40), {name}, 121), N' ', N'T')").label(column.name)
        case "date":  # style 23: yyyy-mm-dd
            return sa.literal_column(f"CONVERT(nvarchar(40), {name}, 23)").label(column.name)
        case "boolean":
            return sa.literal_column(f"CAST({name} AS int)").label(column.name)
        case "decimal":
            return sa.literal_column(f"CAST({name} AS nvarchar(50))").label(column.name)
        case _:
            return sa.column(column.name, _TYPES[column.type])


def is_part(column: Column, part: KeyPart) -> sa.ColumnElement[bool]:
    """Whether a column of the key is a value in canonical form. For texts and numbers an index can tell.

    Of a text also the length, since SQL Server ignores blanks at the end when it compares.
    """
    if column.type == "string":
        length = len(str(part).encode("utf-16-le", "surrogatepass"))
        return sa.and_(selected(column) == part, sa.func.datalength(sa.column(column.name)) == length)
    if column.type in _TYPES:
        return selected(column) == part
    return (
        sa.type_coerce(selected(column).element, sa.Unicode() if isinstance(part, str) else sa.BigInteger())
        == part
    )


def instant(value: datetime) -> datetime:
    """An aware instant as it is stored: in UTC, without saying so."""
    return value.astimezone(UTC).replace(tzinfo=None)
