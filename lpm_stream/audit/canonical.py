"""The one form in which both sides are compared.

A database holds instants, dates and decimals as text and flags as 0 or 1. The table's values are brought to that
form, the database's are left as they are: what was stored in another form differs, and is not parsed into place.
"""

from collections.abc import Mapping

import pyarrow as pa

from lpm_stream.audit.sql import quoted
from lpm_stream.feed.spec import MOST_DIGITS, Column, ColumnType, FeedSpec

# Column names of a contract begin with a letter, so these can be none of them.
DATABASE = "_database"  # the company whose database holds the row
ODD = "_odd"  # the columns that hold something other than the contract's type; NULL if none does

# All that the audit's statements call something themselves: a column of the source's own may begin with anything.
OWN_NAMES = frozenset(
    {
        DATABASE,
        ODD,
        "_hash",
        "_fault",
        "_columns",
        "_row",
        "_present",
        "_stray",
        "_known",
        "_owned",
        "_closest",
        "_copies",
    }
)

ARROW_TYPES: Mapping[ColumnType, pa.DataType] = {
    "string": pa.string(),
    "int32": pa.int64(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "boolean": pa.int64(),
    "timestamp": pa.string(),
    "date": pa.string(),
    "decimal": pa.string(),
}
_DUCKDB_TYPES: Mapping[pa.DataType, str] = {pa.string(): "VARCHAR", pa.int64(): "BIGINT", pa.float64(): "DOUBLE"}

# Longer texts are compared by their digest, so that the join does not carry them. With its prefix a digest is
# longer than any text that is kept: the two cannot be taken for each other.
_LONGEST_KEPT = 64  # bytes
_DIGEST_PREFIX = "sha256:"


def source_schema(spec: FeedSpec) -> pa.Schema:
    """The columns of a row of the table in canonical form."""
    return pa.schema([(column.name, ARROW_TYPES[column.type]) for column in spec.columns])


def target_schema(spec: FeedSpec) -> pa.Schema:
    """The columns of a row of a database in canonical form: with `_database` and `_odd`."""
    return pa.schema([(DATABASE, pa.string()), *source_schema(spec), (ODD, pa.list_(pa.string()))])


def duckdb_type(column: Column) -> str:
    """The DuckDB type of a column in canonical form."""
    return _DUCKDB_TYPES[ARROW_TYPES[column.type]]


def from_table(spec: FeedSpec, column: Column) -> str:
    """A DuckDB expression: a column as the Delta table holds it, brought to canonical form."""
    name = quoted(column.name)
    match column.type:
        case "timestamp":
            # What lies outside DuckDB's calendar becomes a text that no database holds.
            text = f"TRY(strftime({name}, '%Y-%m-%dT%H:%M:%S.%f'))"
            return f"CASE WHEN {name} IS NOT NULL THEN coalesce({text}, 'out of range') END"
        case "date":
            return f"strftime({name}, '%Y-%m-%d')"
        case "float64":
            # SQL has no NaN: NULL stands for it.
            return f"CASE WHEN NOT isnan({name}) THEN CAST({name} AS DOUBLE) END"
        case "decimal":
            # The table's may have fewer digits, or more before the point. DuckDB may leave out the zero before it.
            text = f"CAST(CAST({name} AS DECIMAL({MOST_DIGITS},{column.scale})) AS VARCHAR)"
            return f"regexp_replace({text}, '^(-?)[.]', '\\10.')"
        case "string":
            return from_database(spec, column)
        case _:
            return f"CAST({name} AS BIGINT)"


def from_database(spec: FeedSpec, column: Column) -> str:
    """A DuckDB expression: a column as a database holds it, long texts replaced by their digest.

    Keys and company ids stay whole: rows are joined on them, and keys are shown.
    """
    name = quoted(column.name)
    if column.type != "string" or column.name in {*spec.primary_key, spec.company_column}:
        return name
    digest = f"'{_DIGEST_PREFIX}' || sha256({name})"
    return f"CASE WHEN strlen({name}) > {_LONGEST_KEPT} THEN {digest} ELSE {name} END"
