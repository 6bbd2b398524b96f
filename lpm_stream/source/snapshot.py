"""The rows of one company as the table holds them at a pinned version."""

from collections.abc import Iterator
from typing import Any

import polars as pl
from deltalake import DeltaTable, QueryBuilder
from deltalake.exceptions import DeltaError

from lpm_stream.errors import SourceError
from lpm_stream.feed.schema import fit
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.source.delta import schema_of
from lpm_stream.source.failure import one_line, unreadable

# By default as many files are read at the same time as there are cores, each with its row groups in memory.
_FILES_AT_ONCE = "SET datafusion.execution.target_partitions = 1"


class Snapshot:
    """A Delta table at the version that is its newest now."""

    def __init__(self, spec: FeedSpec, location: str) -> None:
        """Pins the version.

        Raises:
            SourceError: if the table cannot be opened.
            SchemaError: if it does not fit the contract.
        """
        self._spec = spec
        try:
            self._table = DeltaTable(location)
        except (DeltaError, OSError) as error:
            raise unreadable(location, error, "cannot be opened") from error
        self.version = self._table.version()
        self.fit = fit(spec, schema_of(self._table))

    def count(self, company: str) -> int:
        """How many rows the company has.

        Raises:
            SourceError: if they cannot be read.
        """
        return sum(int(batch["n"].sum()) for batch in self._select('count(*) AS "n"', company))

    def rows(self, company: str, batch_rows: int, keys: pl.DataFrame | None = None) -> Iterator[pl.DataFrame]:
        """The company's rows in the source's types, in frames of some `batch_rows`.

        Args:
            company: its id.
            batch_rows: how many rows to a frame, about.
            keys: primary keys; rows that have none of these may be left out.

        Raises:
            SourceError: if they cannot be read.
        """
        columns = ", ".join(map(_quoted, self.fit.schema))
        frames: list[pl.DataFrame] = []
        for frame in self._select(columns, company, _among(keys)):
            frames.append(frame)
            if sum(one.height for one in frames) >= batch_rows:
                yield pl.concat(frames)
                frames = []
        if frames:
            yield pl.concat(frames)

    def _select(self, what: str, company: str, further: str = "") -> Iterator[pl.DataFrame]:
        engine = QueryBuilder().register("t", self._table)
        mine = f"{_quoted(self._spec.company_column)} = {literal(company)}{further}"
        try:
            engine.execute(_FILES_AT_ONCE)
            for batch in engine.execute(f"SELECT {what} FROM t WHERE {mine}"):
                yield pl.DataFrame(batch)
        except (DeltaError, OSError) as error:
            raise SourceError(
                f"version {self.version} of table {self._table.table_uri} cannot be read: {one_line(error)}"
            ) from error


def _among(keys: pl.DataFrame | None) -> str:
    """What is true of rows whose key's columns take, each on its own, values that occur among these.

    Only texts and whole numbers are looked at: what others look like in SQL depends on the source's type.
    """
    if keys is None:
        return ""
    looked_at = [values for values in keys if values.dtype == pl.String() or values.dtype.is_integer()]
    lists = [(values.name, ", ".join(map(literal, values.unique()))) for values in looked_at]
    return "".join(f" AND {_quoted(name)} IN ({literals})" for name, literals in lists)


def literal(value: Any) -> str:
    """A text or a whole number as SQL has it."""
    return str(value) if isinstance(value, int) else "'" + str(value).replace("'", "''") + "'"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
