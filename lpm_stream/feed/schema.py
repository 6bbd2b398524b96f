"""The contract as Arrow-side types: what a conforming frame looks like, and how a source schema differs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

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
        taken: columns that the contract lacks and the policy takes in, with their types.
    """

    schema: dict[str, pl.DataType]
    held: tuple[str, ...]
    taken: Mapping[str, ColumnType]


def contract_schema(spec: FeedSpec) -> dict[str, pl.DataType]:
    """The contract's columns as polars types."""
    return {column.name: POLARS_TYPES[column.type] for column in spec.columns}


def declared_type(dtype: pl.DataType) -> ColumnType | None:
    """The contract's word for a polars type, or None where it has none."""
    return _DECLARED.get(dtype)


def fit(
    spec: FeedSpec, source: Mapping[str, pl.DataType], taken: Mapping[str, ColumnType] = MappingProxyType({})
) -> Fit:
    """Compares a source table's schema with the contract.

    Args:
        spec: the feed.
        source: the source table's columns, without those that the Change Data Feed adds.
        taken: columns that earlier versions had and the contract lacks, as they were taken in. Under the policy
            `evolve` they have to stay as if they were declared: the company tables would keep their last values.

    Raises:
        SchemaError: if a column that is declared, or was taken in, is missing or of a type that does not fit,
            naming the column, both types, and what to do.
    """
    declared = {column.name: column.type for column in spec.columns}
    before = {
        name: kind for name, kind in taken.items() if spec.schema_policy == "evolve" and name not in declared
    }
    expected = declared | before
    widened = {
        name: source[name]
        for name, kind in expected.items()
        if spec.schema_policy == "evolve" and source.get(name) in WIDENED.get(POLARS_TYPES[kind], frozenset())
    }
    problems = {
        name: problem
        for name, kind in expected.items()
        if name not in widened and (problem := _misfit(name, kind, source.get(name), taken=name in before))
    }
    if problems:
        raise _schema_error(spec, problems.values(), may_declare=not before.keys() >= problems.keys())
    gained = {
        name: dtype
        for name, dtype in source.items()
        if spec.schema_policy == "evolve" and name not in expected and declared_type(dtype) is not None
    }
    schema = {name: POLARS_TYPES[kind] for name, kind in expected.items()} | widened | gained
    further = {name: _DECLARED[dtype] for name, dtype in schema.items() if name not in declared}
    return Fit(schema, tuple(name for name in source if name not in schema), further)


def _misfit(name: str, expected: ColumnType, found: pl.DataType | None, *, taken: bool) -> str | None:
    if found is None:
        return f"column {name} ({'taken in as ' if taken else ''}{expected}) is missing"
    if found == POLARS_TYPES[expected] or found in _WIDENS_TO.get(expected, frozenset()):
        return None
    return f"column {name} is {found}, {'taken in as' if taken else 'declared'} {expected}"


def _schema_error(spec: FeedSpec, problems: Iterable[str], *, may_declare: bool) -> SchemaError:
    """What is wrong, and the way on. A version keeps the schema that it has, whatever that of later ones is."""
    anew = "begin anew with lpm-stream resync"
    declare = (
        f"correct lpm_stream/defs/{spec.name}/defs.yaml, and it goes on from there; or correct the table, then"
    )
    way_on = f"{declare} {anew}" if may_declare else f"once the table is as it is to be, {anew}"
    return SchemaError(
        f"table {spec.source_table} no longer fits the contract of feed {spec.name}: {'; '.join(problems)}. "
        f"Publishing stops before this version: {way_on}"
    )
