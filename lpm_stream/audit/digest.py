"""Counts and digests of contents: whether a database holds what the table does, without comparing row by row.

A digest is the sum of 64-bit hashes of the rows in canonical form, so that their order does not matter and a row
that is there twice counts twice. Both sides are hashed by the same DuckDB; a digest means nothing beyond it.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from deltalake import DeltaTable

from lpm_stream.audit.canonical import ODD
from lpm_stream.audit.database import database_rows
from lpm_stream.audit.scratch import Scratch
from lpm_stream.audit.sql import quoted
from lpm_stream.audit.table import table_rows
from lpm_stream.feed.spec import FeedSpec

_ROWS = "digest_rows"
_NOTHING_ODD = "CAST(NULL AS VARCHAR[])"
_WATERMARK = sa.table("_lpm_watermark", sa.column("feed"), sa.column("version"), sa.column("pending"))


@dataclass(frozen=True)
class Digest:
    """What some rows are: how many, and the digest of their contents."""

    rows: int = 0
    content: int = 0

    def __str__(self) -> str:
        return f"{self.content:016x}"


@dataclass(frozen=True)
class Held:
    """What a company's database holds, in one snapshot.

    Attributes:
        digest: of its rows.
        version: of its watermark; -1 if it has none.
        between: whether a part of a later version is applied already.
    """

    digest: Digest
    version: int
    between: bool


def held_rows(scratch: Scratch, spec: FeedSpec, company: str, url: str) -> Held:
    """Reads a company's database.

    Raises:
        TargetFaultError: if it cannot be read or lacks the table or a column of it.
    """
    found: list[tuple[int, bool]] = []

    def read_watermark(connection: sa.Connection) -> None:
        query = sa.select(_WATERMARK.c.version, _WATERMARK.c.pending).where(_WATERMARK.c.feed == spec.name)
        row = connection.execute(query).one_or_none()
        found.append((-1, False) if row is None else (int(row.version), _text(row.pending) != "[]"))

    with database_rows(scratch.db, spec, company, url, first=read_watermark) as reader:
        [(rows, content)] = _digests(scratch, reader, f"SELECT {_digest(spec, ODD)} FROM {_ROWS}")
    [(version, between)] = found
    return Held(Digest(rows, content), version, between)


def table_digests(
    scratch: Scratch, spec: FeedSpec, table: DeltaTable, companies: Collection[str]
) -> dict[str, Digest]:
    """What the Delta table holds of these companies.

    Raises:
        SourceError: if a file of that version can no longer be read.
    """
    company = quoted(spec.company_column)
    query = f"SELECT {company}, {_digest(spec, _NOTHING_ODD)} FROM {_ROWS} GROUP BY ALL"
    with table_rows(scratch.db, spec, table) as reader:
        found = {name: Digest(rows, content) for name, rows, content in _digests(scratch, reader, query)}
    return {name: found.get(name, Digest()) for name in companies}


def _digest(spec: FeedSpec, odd: str) -> str:
    columns = ", ".join(map(quoted, spec.column_names))
    return f"count(*), CAST(coalesce(sum(hash({columns}, {odd})), 0) % 18446744073709551616 AS UBIGINT)"


def _digests(scratch: Scratch, reader: pa.RecordBatchReader, query: str) -> list[tuple[Any, ...]]:
    with scratch.db.cursor() as own:  # the reader's rows are still being computed by the other
        own.register(_ROWS, reader)
        return own.execute(query).fetchall()


def _text(value: Any) -> str:
    return bytes(value).decode() if isinstance(value, bytearray) else str(value)
