"""A Delta table with Change Data Feed that the simulator writes: created from the contract, then kept quick."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import polars as pl
import pyarrow as pa
from deltalake import DeltaTable, Schema, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError

from lpm_stream.errors import SourceError
from lpm_stream.feed.schema import contract_schema
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.source.delta import CDF_PROPERTY
from lpm_stream.source.failure import one_line
from lpm_stream.source.snapshot import literal

T = TypeVar("T")

_ACTION = "_action"
_MARK = "Simulated: "  # how the descriptions of its own tables begin
_BOUNDED = ("string", "int32", "int64")  # types of keys whose values are simple to write in SQL
_COMPACTED_BYTES = 8 * 2**20  # a compacted file of this size is left alone from then on
_ATTEMPTS = 20  # of a commit; another writer can get in between, hardly that often in a row


@dataclass(frozen=True)
class Committed:
    """What was committed: changed rows by kind, and the table versions that carry them."""

    inserts: int = 0
    updates: int = 0
    deletes: int = 0
    versions: int = 0

    def __add__(self, other: "Committed") -> "Committed":
        return Committed(
            self.inserts + other.inserts,
            self.updates + other.updates,
            self.deletes + other.deletes,
            self.versions + other.versions,
        )

    @property
    def changes(self) -> int:
        """All changed rows."""
        return self.inserts + self.updates + self.deletes


class SimulatedTable:
    """A feed's source table, created if there is none."""

    def __init__(self, spec: FeedSpec, location: str) -> None:
        """Opens or creates the table.

        Raises:
            SourceError: if it can be neither opened nor created, or somebody else has made it.
        """
        self._spec = spec
        self._location = location
        with self._writing():
            exists = DeltaTable.is_deltatable(location)
            self._table = DeltaTable(location) if exists else _create(spec, location)
        if not str(self._table.metadata().description).startswith(_MARK):
            raise SourceError(
                f"table {location} was not made by the simulator, which writes to no other: "
                f"choose another LPM_STREAM_TABLES_URL or --dir"
            )

    @property
    def version(self) -> int:
        """The newest version that this writer knows."""
        return self._table.version()

    def append(self, rows: pl.DataFrame) -> Committed:
        """Inserts rows, as one commit.

        Raises:
            SourceError: if the table cannot be written.
        """
        self._commit(lambda: write_deltalake(self._table, rows.to_arrow(), mode="append"))
        return Committed(inserts=rows.height, versions=1)

    def merge(self, inserted: pl.DataFrame, updated: pl.DataFrame, deleted: pl.DataFrame) -> Committed:
        """Inserts, updates and deletes rows, as one MERGE commit; no key may be in it twice.

        Rows to update or delete that somebody else has removed meanwhile are left out, and not counted.

        Raises:
            SourceError: if the table cannot be written.
        """
        metrics = self._commit(lambda: self._merge(inserted, updated, deleted))
        return Committed(
            metrics["num_target_rows_inserted"],
            metrics["num_target_rows_updated"],
            metrics["num_target_rows_deleted"],
            versions=1,
        )

    def compact(self) -> None:
        """Puts small files together, in a commit that changes no rows: each file costs every commit some time.

        Raises:
            SourceError: if the table cannot be written.
        """
        self._commit(lambda: self._table.optimize.compact(target_size=_COMPACTED_BYTES))

    def _merge(self, inserted: pl.DataFrame, updated: pl.DataFrame, deleted: pl.DataFrame) -> dict[str, Any]:
        keys = list(self._spec.primary_key)
        bounds = _bounds(self._spec, pl.concat([updated, deleted]))
        present = pl.DataFrame(self._table.scan(columns=keys, predicate=" AND ".join(bounds) or None))
        frames = {
            "insert": inserted,
            "update": updated.join(present, on=keys, how="semi"),
            "delete": deleted.join(present, on=keys, how="semi"),
        }
        source = pl.concat(frame.with_columns(pl.lit(name).alias(_ACTION)) for name, frame in frames.items())
        matching = [f"t.{name} = s.{name}" for name in keys] + [f"t.{bound}" for bound in bounds]
        return (
            self._table.merge(source.to_arrow(), " AND ".join(matching), source_alias="s", target_alias="t")
            .when_matched_delete(f"s.{_ACTION} = 'delete'")
            .when_matched_update_all(except_cols=[_ACTION])
            .when_not_matched_insert_all(except_cols=[_ACTION])
            .execute()
        )

    def _commit(self, write: Callable[[], T]) -> T:
        """Commits on top of the newest version; anew if another writer was quicker."""
        with self._writing():
            for _ in range(_ATTEMPTS - 1):
                self._table.update_incremental()
                with suppress(CommitFailedError):
                    return write()
            return write()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (DeltaError, OSError) as error:
            raise SourceError(f"table {self._location} cannot be written: {one_line(error)}") from error


def _create(spec: FeedSpec, location: str) -> DeltaTable:
    types = pl.DataFrame(schema=contract_schema(spec)).to_arrow().schema
    fields = [types.field(column.name).with_nullable(column.nullable) for column in spec.columns]
    # Statistics of the columns that reads and merges select files by; those of all would swell the log.
    statistics = ",".join(dict.fromkeys((*spec.primary_key, spec.event_time_column)))
    return DeltaTable.create(
        location,
        Schema.from_arrow(pa.schema(fields)),
        name=spec.source_table,
        description=f"{_MARK}{spec.description}",
        configuration={CDF_PROPERTY: "true", "delta.dataSkippingStatsColumns": statistics},
    )


def _bounds(spec: FeedSpec, rows: pl.DataFrame) -> list[str]:
    """Between which literals the rows' keys lie: terms by which reads skip whole files."""
    return [
        f"{name} {operator} {literal(bound)}"
        for name in spec.primary_key
        if spec.column(name).type in _BOUNDED
        for operator, bound in ((">=", rows[name].min()), ("<=", rows[name].max()))
    ]
