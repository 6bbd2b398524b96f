"""The contract as Arrow-side types: what a conforming frame looks like, and how a source schema differs."""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from lpm_stream.errors import SchemaError
from lpm_stream.feed.spec import ColumnType, FeedSpec

CHANGE_TYPE = "_change_type"  # as the Change Data Feed names it
COMMIT_VERSION = "_commit_version"
DELETE = "delete"

INSTANT = pl.Datetime("us", "UTC")

POLARS_TYPES: Mapping[ColumnType, pl.DataType] = {
    "string": pl.String(),
    "int32": pl.Int32(),
    "int64": pl.Int64(),
    "float64": pl.Float64(),
    "boolean": pl.Boolean(),
    "timestamp": INSTANT,
    "date": pl.Date(),
}
_DECLARED: Mapping[pl.DataType, ColumnType] = {dtype: name for name, dtype in POLARS_TYPES.items()}

_WIDENS_TO: Mapping[ColumnType, frozenset[pl.DataType]] = {
    "int64": frozenset({pl.Int8(), pl.Int16(), pl.Int32()}),
    "int32": frozenset({pl.Int8(), pl.Int16()}),
    "float64": frozenset({pl.Float32(), pl.Int8(), pl.Int16(), pl.Int32()}),
    "timestamp": frozenset({pl.Datetime("us"), pl.Datetime("ms"), pl.Datetime("ms", "UTC")}),
}

# What a declared column may become in the source under the policy `evolve`: the company tables follow.
WIDENED: Mapping[pl.DataType, frozenset[pl.DataType]] = {pl.Int32(): frozenset({pl.Int64()})}


@dataclass(frozen=True)
class Fit:
    """How a source schema fits the contract.

    Attributes:
        schema: the columns that flow, in order: the contract's, some in a wider type, then those taken in.
        held: columns of the source that the policy holds back.
    """

    schema: dict[str, pl.DataType]
    held: tuple[str, ...]


def contract_schema(spec: FeedSpec) -> dict[str, pl.DataType]:
    """The contract's columns as polars types."""
    return {column.name: POLARS_TYPES[column.type] for column in spec.columns}


def declared_type(dtype: pl.DataType) -> ColumnType | None:
    """The contract's word for a polars type, or None where it has none."""
    return _DECLARED.get(dtype)


def fit(spec: FeedSpec, source: Mapping[str, pl.DataType]) -> Fit:
    """Compares a source table's schema with the contract.

    Args:
        spec: the feed.
        source: the source table's columns, without those that the Change Data Feed adds.

    Raises:
        SchemaError: if a declared column is missing or of a type that does not fit, naming the column, both
            types, and what to do.
    """
    widened = {
        name: source[name]
        for name, dtype in contract_schema(spec).items()
        if spec.schema_policy == "evolve" and source.get(name) in WIDENED.get(dtype, frozenset())
    }
    problems = [
        problem
        for column in spec.columns
        if column.name not in widened and (problem := _misfit(column.name, column.type, source.get(column.name)))
    ]
    if problems:
        raise SchemaError(
            f"table {spec.source_table} no longer fits the contract of feed {spec.name}: "
            f"{'; '.join(problems)}. Publishing stops before this version and goes on from it once the table "
            f"or lpm_stream/defs/{spec.name}/defs.yaml is corrected"
        )
    schema = contract_schema(spec) | widened
    extra = [name for name in source if name not in schema]
    taken = {
        name: source[name]
        for name in extra
        if spec.schema_policy == "evolve" and declared_type(source[name]) is not None
    }
    return Fit(schema | taken, tuple(name for name in extra if name not in taken))


def _misfit(name: str, declared: ColumnType, found: pl.DataType | None) -> str | None:
    if found is None:
        return f"column {name} ({declared}) is missing"
    if found == POLARS_TYPES[declared] or found in _WIDENS_TO.get(declared, frozenset()):
        return None
    return f"column {name} is {found}, declared {declared}"
