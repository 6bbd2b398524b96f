"""Pieces of DuckDB's SQL that several statements share."""

import duckdb
import pyarrow as pa

from lpm_stream.feed.spec import FeedSpec

_ROWS_AT_ONCE = 8_192


def quoted(name: str) -> str:
    """A name as an identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as a literal, for the names of columns in results; data are parameters."""
    return "'" + text.replace("'", "''") + "'"


def key_columns(spec: FeedSpec, alias: str = "") -> str:
    """The columns of the key as a list, of the table with that alias."""
    prefix = f"{alias}." if alias else ""
    return ", ".join(f"{prefix}{quoted(name)}" for name in spec.primary_key)


def same_key(spec: FeedSpec, left: str, right: str) -> str:
    """Whether two rows have the same key; as ever in SQL, a key with a NULL in it is the same as none."""
    return " AND ".join(f"{left}.{quoted(name)} = {right}.{quoted(name)}" for name in spec.primary_key)


def whole_key(spec: FeedSpec) -> str:
    """Whether no part of the key is NULL."""
    return " AND ".join(f"{quoted(name)} IS NOT NULL" for name in spec.primary_key)


def key_hash(spec: FeedSpec) -> str:
    """A number from 0 to 2**63 - 1 that is the same for equal keys."""
    return f"CAST(hash({key_columns(spec)}) >> 1 AS BIGINT)"


def streamed(db: duckdb.DuckDBPyConnection, query: str) -> pa.RecordBatchReader:
    """The rows of a query, computed as they are read. Nothing else may use `db` until they are."""
    return db.sql(query).to_arrow_reader(_ROWS_AT_ONCE)
