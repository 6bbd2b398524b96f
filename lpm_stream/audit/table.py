"""Reads the Delta table at a pinned version."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import duckdb
import pyarrow as pa
from deltalake import DeltaTable, QueryBuilder
from deltalake.exceptions import DeltaError

from lpm_stream.audit.buckets import HASH
from lpm_stream.audit.canonical import from_table
from lpm_stream.audit.scratch import one_line
from lpm_stream.audit.sql import key_columns, key_hash, quoted, streamed
from lpm_stream.errors import SourceError
from lpm_stream.feed.schema import fit
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.source.delta import schema_of
from lpm_stream.source.failure import unreadable

_STREAM = "table_stream"

# By default as many files are read at the same time as there are cores, each with its row groups in memory.
_FILES_AT_ONCE = "SET datafusion.execution.target_partitions = 1"


def pin(
    spec: FeedSpec, location: str, version: int | None, storage_options: Mapping[str, str] | None
) -> DeltaTable:
    """The table at a version, or at its newest.

    Raises:
        SourceError: if there is no such table or version.
        SchemaError: if the table does not fit the contract.
    """
    try:
        table = DeltaTable(location, version=version, storage_options=dict(storage_options or {}))
    except (DeltaError, OSError) as error:
        asked = "" if version is None else f" at version {version}"
        raise unreadable(location, error, f"cannot be opened{asked}") from error
    fit(spec, schema_of(table))
    return table


@contextmanager
def table_rows(
    db: duckdb.DuckDBPyConnection, spec: FeedSpec, table: DeltaTable, keys: str | None = None
) -> Iterator[pa.RecordBatchReader]:
    """The table's rows in canonical form, each with the hash of its key. Nothing else may use `db` meanwhile.

    Args:
        db: the scratch database.
        spec: the feed.
        table: the table at the version to read.
        keys: a scratch table of keys: only rows with one of them are read. None reads all.

    Raises:
        SourceError: if a file of that version can no longer be read.
    """
    columns = ", ".join(f"{from_table(spec, column)} AS {quoted(column.name)}" for column in spec.columns)
    key = key_columns(spec)
    only = "" if keys is None else f"SEMI JOIN (SELECT {key} FROM {keys}) USING ({key})"
    try:
        db.register(_STREAM, _scan(table, spec))
        query = f"SELECT *, {key_hash(spec)} AS {HASH} FROM (SELECT {columns} FROM {_STREAM}) {only}"
        with streamed(db, query) as reader:
            yield reader
    except (DeltaError, OSError, duckdb.InvalidInputException) as error:  # the last two are a failing stream
        raise SourceError(
            f"version {table.version()} of table {table.table_uri} can no longer be read ({one_line(error)}): "
            "if VACUUM removed its files, audit a newer version"
        ) from error
    finally:
        db.unregister(_STREAM)


def _scan(table: DeltaTable, spec: FeedSpec) -> pa.RecordBatchReader:
    columns = ", ".join(map(quoted, spec.column_names))
    engine = QueryBuilder().register("t", table)
    engine.execute(_FILES_AT_ONCE)
    return pa.RecordBatchReader.from_stream(engine.execute(f"SELECT {columns} FROM t"))
