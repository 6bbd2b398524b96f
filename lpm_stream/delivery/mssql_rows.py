"""Rows on their way to SQL Server: as one JSON parameter, or as Arrow for bulk copy."""

import sys

import polars as pl
import pyarrow as pa

from lpm_stream.delivery.mssql_tables import BATCH
from lpm_stream.errors import RowFaultError
from lpm_stream.feed.schema import INSTANT


def require_storable(rows: pl.DataFrame) -> None:
    """Looks for floats that SQL Server has no word for: infinite ones, NaN, and those too close to zero.

    https://learn.microsoft.com/sql/t-sql/data-types/float-and-real-transact-sql

    Raises:
        RowFaultError: if there is one.
    """
    for name, dtype in rows.schema.items():
        if dtype != pl.Float64():
            continue
        value = rows[name]
        tiny = (value != 0) & (value.abs() < sys.float_info.min)
        if (~value.is_finite() | tiny).any():
            what = f"column {name} is a float that SQL Server cannot store: infinite or next to zero"
            raise RowFaultError(what, what)


def as_json(rows: pl.DataFrame) -> str:
    """Rows as a JSON array of objects, columns named c0, c1 and so on; see `MssqlTables.from_json`."""
    return rows.select(
        _text(name, dtype).alias(f"c{i}") for i, (name, dtype) in enumerate(rows.schema.items())
    ).write_json()


def as_arrow(rows: pl.DataFrame, batch: str) -> pa.Table:
    """Rows of a batch as Arrow, in the types that bulk copy takes: no zones, no views, no large offsets."""
    naive = rows.with_columns(pl.col(INSTANT).dt.replace_time_zone(None), pl.lit(batch).alias(BATCH))
    table = naive.to_arrow(compat_level=pl.CompatLevel.oldest())
    plain = [
        field.with_type(pa.string()) if pa.types.is_large_string(field.type) else field for field in table.schema
    ]
    return table.cast(pa.schema(plain))


def _text(name: str, dtype: pl.DataType) -> pl.Expr:
    """A column as JSON has it: days and instants as the texts that SQL Server takes under every language.

    Decimals are texts too, which OPENJSON reads as they are.
    """
    if dtype == INSTANT:
        return pl.col(name).dt.strftime("%Y-%m-%dT%H:%M:%S%.6f")
    return pl.col(name).cast(pl.String) if dtype == pl.Date() or dtype.is_decimal() else pl.col(name)
