"""The rows of one company as the table holds them at a pinned version."""

from collections.abc import Iterator

import polars as pl
from deltalake import DeltaTable, QueryBuilder
from deltalake.exceptions import DeltaError, TableNotFoundError

from lpm_stream.errors import SourceError
from lpm_stream.feed.schema import fit
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.source.delta import no_table, schema_of

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
        except TableNotFoundError as error:
            raise no_table(location) from error
        except (DeltaError, OSError) as error:
            raise SourceError(f"table {location} cannot be opened: {str(error).splitlines()[0]}") from error
        self.version = self._table.version()
        self.fit = fit(spec, schema_of(self._table))

    def count(self, company: str) -> int:
        """How many rows the company has.

        Raises:
            SourceError: if they cannot be read.
        """
        return sum(int(batch["n"].sum()) for batch in self._select('count(*) AS "n"', company))

    def rows(self, company: str, batch_rows: int) -> Iterator[pl.DataFrame]:
        """The company's rows in the source's types, in frames of some `batch_rows`.

        Raises:
            SourceError: if they cannot be read.
        """
        columns = ", ".join(map(_quoted, self.fit.schema))
        frames: list[pl.DataFrame] = []
        for frame in self._select(columns, company):
            frames.append(frame)
            if sum(one.height for one in frames) >= batch_rows:
                yield pl.concat(frames)
                frames = []
        if frames:
            yield pl.concat(frames)

    def _select(self, what: str, company: str) -> Iterator[pl.DataFrame]:
        engine = QueryBuilder().register("t", self._table)
        literal = company.replace("'", "''")
        mine = f"{_quoted(self._spec.company_column)} = '{literal}'"
        try:
            engine.execute(_FILES_AT_ONCE)
            for batch in engine.execute(f"SELECT {what} FROM t WHERE {mine}"):
                yield pl.DataFrame(batch)
        except (DeltaError, OSError) as error:
            raise SourceError(
                f"version {self.version} of table {self._table.table_uri} cannot be read: "
                f"{str(error).splitlines()[0]}"
            ) from error


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
