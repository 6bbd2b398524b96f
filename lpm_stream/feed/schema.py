"""The contract as Arrow-side types: what a conforming frame looks like, and how a source schema differs."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import polars as pl

from lpm_stream.errors import SchemaError
from lpm_stream.feed.spec import MOST_DIGITS, Column, ColumnType, FeedSpec

CHANGE_TYPE = "_change_type"  # as the Change Data Feed names it
COMMIT_VERSION = "_commit_version"
DELETE = "delete"

INSTANT = pl.Datetime("us", "UTC")

# Of all types but decimals, which have digits: see `polars_type`.
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

_WIDENS_TO: Mapping[pl.DataType, frozenset[pl.DataType]] = {
    pl.Int64(): frozenset({pl.Int8(), pl.Int16(), pl.Int32()}),
    pl.Int32(): frozenset({pl.Int8(), pl.Int16()}),
    pl.Float64(): frozenset({pl.Float32(), pl.Int8(), pl.Int16(), pl.Int32()}),
    INSTANT: frozenset({pl.Datetime("us"), pl.Datetime("ms"), pl.Datetime("ms", "UTC")}),
}


@dataclass(frozen=True)
class Fit:
    """How a source schema fits the contract.

    Attributes:
        schema: the columns that flow, in order: the contract's, some in a wider type, then those taken in.
        held: columns of the source that the policy holds back.
        taken: columns that the contract lacks and the policy takes in, with the names of their types.
    """

    schema: dict[str, pl.DataType]
    held: tuple[str, ...]
    taken: Mapping[str, str]


def contract_schema(spec: FeedSpec) -> dict[str, pl.DataType]:
    """The contract's columns as polars types."""
    return {column.name: polars_type(column) for column in spec.columns}


def polars_type(column: Column) -> pl.DataType:
    """A column of the contract as a polars type."""
    if column.type == "decimal":
        return pl.Decimal(column.precision or MOST_DIGITS, column.scale or 0)
    return POLARS_TYPES[column.type]


def declared_type(dtype: pl.DataType) -> ColumnType | None:
    """The contract's word for a polars type, or None where it has none."""
    return "decimal" if isinstance(dtype, pl.Decimal) else _DECLARED.get(dtype)


def type_name(dtype: pl.DataType) -> str:
    """The name of a type that the contract has, as `Column.type_name` writes it: `decimal(18,4)`."""
    return f"decimal({dtype.precision},{dtype.scale})" if isinstance(dtype, pl.Decimal) else _DECLARED[dtype]


def typed(name: str) -> pl.DataType:
    """The type that `type_name` has written so."""
    if digits := re.fullmatch(r"decimal\((\d+),(\d+)\)", name):
        return pl.Decimal(int(digits[1]), int(digits[2]))
    return next(dtype for dtype, declared in _DECLARED.items() if declared == name)


def is_widened(declared: pl.DataType, found: pl.DataType) -> bool:
    """Whether the source may come to this type under the policy `evolve`: the company tables follow.

    A decimal may gain digits before the point. More of them behind it would change how every value is written.
    """
    if isinstance(declared, pl.Decimal) and isinstance(found, pl.Decimal):
        return found.scale == declared.scale and found.precision > declared.precision
    return declared == pl.Int32() and found == pl.Int64()


def holds(declared: pl.DataType, found: pl.DataType) -> bool:
    """Whether every decimal of a type is exactly one of the declared: it has no more digits on either side."""
    if not (isinstance(declared, pl.Decimal) and isinstance(found, pl.Decimal)):
        return False
    return found.scale <= declared.scale and found.precision - found.scale <= declared.precision - declared.scale


def fit(spec: FeedSpec, source: Mapping[str, pl.DataType], taken: Mapping[str, str] = MappingProxyType({})) -> Fit:
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
    declared = contract_schema(spec)
    before = {
        name: typed(kind)
        for name, kind in taken.items()
        if spec.schema_policy == "evolve" and name not in declared
    }
    expected = declared | before
    widened = {
        name: source[name]
        for name, dtype in expected.items()
        if spec.schema_policy == "evolve" and name in source and is_widened(dtype, source[name])
    }
    problems = {
        name: problem
        for name, dtype in expected.items()
        if name not in widened and (problem := _misfit(name, dtype, source.get(name), taken=name in before))
    }
    if problems:
        raise _schema_error(spec, problems.values(), may_declare=not before.keys() >= problems.keys())
    gained = {
        name: dtype
        for name, dtype in source.items()
        if spec.schema_policy == "evolve" and name not in expected and declared_type(dtype) is not None
    }
    schema = expected | widened | gained
    further = {name: type_name(dtype) for name, dtype in schema.items() if name not in declared}
    return Fit(schema, tuple(name for name in source if name not in schema), further)


def _misfit(name: str, expected: pl.DataType, found: pl.DataType | None, *, taken: bool) -> str | None:
    if found is None:
        return f"column {name} ({'taken in as ' if taken else ''}{type_name(expected)}) is missing"
    if found == expected or found in _WIDENS_TO.get(expected, frozenset()) or holds(expected, found):
        return None
    return f"column {name} is {found}, {'taken in as' if taken else 'declared'} {type_name(expected)}"


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
