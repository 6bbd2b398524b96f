"""Compares both sides bucket by bucket, each in memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from lpm_stream.audit.buckets import FAN_OUT, Buckets
from lpm_stream.audit.canonical import source_schema, target_schema
from lpm_stream.audit.findings import SOURCE, TARGET, add_findings
from lpm_stream.feed.spec import FeedSpec

_MOST_BYTES = 96 * 2**20  # compared at a time; DuckDB takes a multiple of it


@dataclass(frozen=True)
class Sides:
    """Both sides; a key is in the bucket of the same number in each.

    Attributes:
        source: rows of the Delta table.
        target: rows of the databases.
    """

    source: Buckets
    target: Buckets

    def groups(self) -> Iterator[list[int]]:
        """The buckets that are not empty, in groups that fit into memory; one that does not is alone."""
        group: list[int] = []
        for number in range(FAN_OUT):
            if self.size([number]) == 0:
                continue
            if group and self.size([*group, number]) > _MOST_BYTES:
                yield group
                group = []
            group.append(number)
        if group:
            yield group

    def size(self, group: Sequence[int]) -> int:
        """How many bytes a group takes."""
        return sum(self.source.size(number) + self.target.size(number) for number in group)


def compare(
    db: duckdb.DuckDBPyConnection, spec: FeedSpec, sides: Sides, companies: Sequence[str], schema: str
) -> None:
    """Finds the faults, and removes the buckets.

    Args:
        db: the scratch database.
        spec: the feed.
        sides: what to compare.
        companies: whose databases were read to the end; what there is of others is left out.
        schema: where to add what was found, see `lpm_stream.audit.findings`.
    """
    for group in sides.groups():
        if sides.size(group) > _MOST_BYTES and sides.source.can_split:
            [number] = group
            parts = Sides(sides.source.split(number), sides.target.split(number))
            compare(db, spec, parts, companies, schema)
        else:
            db.register(SOURCE, _moved(sides.source, group, source_schema(spec)))
            db.register(TARGET, _moved(sides.target, group, target_schema(spec)))
            add_findings(db, spec, companies, schema)


def _moved(buckets: Buckets, group: Sequence[int], schema: pa.Schema) -> pa.Table:
    """The rows of these buckets, which are removed."""
    batches: list[pa.RecordBatch] = []
    for number in group:
        batches += buckets.rows(number)
        buckets.remove(number)
    return pa.Table.from_batches(batches) if batches else schema.empty_table()
