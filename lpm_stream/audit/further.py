"""Columns that the contract lacks and the stream delivers all the same: they are compared as well."""

from typing import Any

import polars as pl
from deltalake import DeltaTable

from lpm_stream.audit.canonical import OWN_NAMES
from lpm_stream.feed.schema import declared_type, fit
from lpm_stream.feed.spec import Column, FeedSpec
from lpm_stream.source.delta import schema_of


class FurtherColumn(Column):
    """A column that the schema policy takes in. It has the source's name, whatever that is.

    A database has the column once a value has come: until then all of them are NULL.
    """

    name: str


def with_further_columns(spec: FeedSpec, table: DeltaTable) -> FeedSpec:
    """The contract and, behind its columns, those that the policy takes in from the table at this version.

    Raises:
        SchemaError: if the table does not fit the contract.
    """
    found = fit(spec, schema_of(table))
    further = tuple(
        _further(name, found.schema[name])
        for name in found.taken
        if name not in spec.withheld and name.lower() not in OWN_NAMES
    )
    return spec.model_copy(update={"columns": (*spec.columns, *further)})


def _further(name: str, dtype: pl.DataType) -> FurtherColumn:
    declared: dict[str, Any] = {
        "name": name,
        "type": declared_type(dtype),
        "description": "taken in from the source",
    }
    if isinstance(dtype, pl.Decimal):
        declared |= {"precision": dtype.precision, "scale": dtype.scale}
    return FurtherColumn.model_validate(declared)
