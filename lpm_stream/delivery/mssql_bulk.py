"""Bulk copy into SQL Server: into a permanent staging table, on connections of its own."""

import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import polars as pl
import sqlalchemy as sa

from lpm_stream import mssql
from lpm_stream.delivery.mssql_rows import as_arrow
from lpm_stream.delivery.mssql_schema import same_columns
from lpm_stream.delivery.mssql_tables import BATCH, MssqlTables
from lpm_stream.delivery.session import Session
from lpm_stream.mssql import Connection, MssqlError

log = logging.getLogger(__name__)

_PAUSE_SECONDS = 600  # after it has failed


class BulkCopy:
    """Loads batches into staging tables.

    Whoever loads holds the right to write, so whatever else is in there is of a worker that is gone.
    """

    def __init__(self, url: sa.URL, place: str) -> None:
        self._url = url
        self.place = place
        self._pauses_until = 0.0

    def load(self, tables: MssqlTables, stage: str, rows: pl.DataFrame, types: Mapping[str, str]) -> str | None:
        """Loads rows and returns their batch; None if that fails: parameters take whatever can be taken."""
        if time.monotonic() < self._pauses_until:
            return None
        batch = uuid.uuid4().hex
        try:
            with closing(mssql.connect(self._url, autocommit=True)) as connection:
                _make_stage(tables, stage, types, _Aside(connection, self.place))
                connection.bulk_copy(stage, as_arrow(rows, batch))
        except MssqlError as error:
            log.warning("%s: bulk copy does not work, going on without, slower", self.place)
            log.debug("%s: %s", self.place, error)  # which may quote a row
            self._pauses_until = time.monotonic() + _PAUSE_SECONDS
            return None
        return batch


class _Aside:
    """Executes statements beside the transaction, each committed at once."""

    def __init__(self, connection: Connection, place: str) -> None:
        self._connection = connection
        self.place = place

    def run(self, statement: str) -> None:
        """Executes a statement without a result."""
        self._connection.execute(statement)

    def query(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Executes a statement and returns its rows."""
        return self._connection.execute(statement, values)


def _make_stage(tables: MssqlTables, stage: str, types: Mapping[str, str], session: Session) -> None:
    """An empty staging table of these columns."""
    fits = same_columns(session, stage, {BATCH: "nvarchar(32)", **types})
    for statement in [tables.empty_stage(stage)] if fits else tables.create_stage(stage, types):
        session.run(statement)
