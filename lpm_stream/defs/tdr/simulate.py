"""Simulated TDRs: the records of new calls, and late corrections of earlier records."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt
import polars as pl

from lpm_stream.defs.tdr.calls import PSAPS_PER_REGION, calls
from lpm_stream.defs.tdr.chance import milliseconds, pick, ulids
from lpm_stream.defs.tdr.invite import invite_text
from lpm_stream.feed.schema import INSTANT

ROWS_PER_CALL = 4
"""A call is an INVITE, two look-ups, and an update or transfer; so one row in four carries a `sipreq`."""

_FIRST_STEPS = ("invite", "location_query", "route_query")
_STEP_MS = 2  # the records of a call are written together, one after the other
_SPREAD_MS = 1_000  # a batch holds the records of about the last second
_SETTLING_MS = 2_000  # by how much a correction moves a release at most


def new_rows(rng: np.random.Generator, companies: Sequence[str], count: int, now: datetime) -> pl.DataFrame:
    """New records in the order of their keys, of the calls recorded in about the last second.

    Args:
        rng: the source of chance.
        companies: company ids, the busiest first.
        count: how many rows.
        now: an aware instant; all times of the rows are before it.

    Returns:
        `count` rows in the contract's columns (in any order) and types.
    """
    first = int(rng.integers(ROWS_PER_CALL))  # a batch may begin amid a call
    call, step = np.divmod(np.arange(first, first + count), ROWS_PER_CALL)
    begun = np.sort(rng.integers(_SPREAD_MS, size=-(-(first + count) // ROWS_PER_CALL)))
    begun += milliseconds(now) - _SPREAD_MS - _STEP_MS * ROWS_PER_CALL
    written = begun[call] + _STEP_MS * step
    order = np.argsort(written, kind="stable")
    table = calls(rng, companies, begun)
    table = table.with_columns(invite_text(rng, table).alias("sipreq"))
    return _records(table[call[order]], step[order]).with_columns(tdr_id=ulids(rng, written[order]))


def corrected(rng: np.random.Generator, rows: pl.DataFrame, now: datetime) -> pl.DataFrame:
    """The rows as corrected later: every row changes; key, company and call start do not.

    A call in progress is closed and any other's release is restated; beside that, a third of the rows move to
    another PSAP and a third get a better location.

    Args:
        rng: the source of chance.
        rows: records as they are, in the contract's columns.
        now: an aware instant after the rows' times.
    """
    kind = pick(rng, {"release": 1, "psap": 1, "location": 1}, rows.height)
    return (
        rows.pipe(_released, rng, now)
        .pipe(_rerouted, rng, kind == "psap")
        .pipe(_relocated, rng, kind == "location")
    )


def _records(rows: pl.DataFrame, step: npt.NDArray[np.int64]) -> pl.DataFrame:
    """Each call row as its `step`-th record."""
    transferred = pl.col("disposition") == "transferred"
    last = pl.when(transferred).then(pl.lit("transfer")).otherwise(pl.lit("update"))
    number = pl.Series(step)
    return rows.with_columns(
        sipreq=pl.when(number == 0).then("sipreq"),
        transaction_type=pl.when(number < len(_FIRST_STEPS))
        .then(pl.Series(_FIRST_STEPS).gather(step.clip(max=len(_FIRST_STEPS) - 1)))
        .otherwise(last),
    )


def _released(rows: pl.DataFrame, rng: np.random.Generator, now: datetime) -> pl.DataFrame:
    settled = pl.lit(pl.Series(rng.integers(1, _SETTLING_MS, rows.height)))
    later = pl.duration(milliseconds=settled, time_unit="us")
    before = pl.coalesce("release_time", pl.lit(now - timedelta(milliseconds=_SETTLING_MS), INSTANT))
    in_progress = pl.col("disposition") == "in_progress"
    return rows.with_columns(
        release_time=pl.min_horizontal(before + later, pl.lit(now, INSTANT)).dt.truncate("1ms"),
        disposition=pl.when(in_progress).then(pl.lit("answered")).otherwise("disposition"),
    ).with_columns(duration_ms=(pl.col("release_time") - pl.col("answer_time")).dt.total_milliseconds())


def _rerouted(rows: pl.DataFrame, rng: np.random.Generator, chosen: pl.Series) -> pl.DataFrame:
    psap = pl.Series(rng.integers(1, PSAPS_PER_REGION + 1, rows.height)).cast(pl.String)
    fresh = {
        "psap_id": pl.format("psap{}.{}", psap, pl.col("psap_id").str.extract(r"^psap\d+\.(.+)$")),
        "psap_name": pl.format("{}{}", pl.col("psap_name").str.extract(r"^(.*?)\d+$"), psap),
        "routing_result": pl.lit("reassigned"),
    }
    return rows.with_columns(_where(chosen, fresh))


def _relocated(rows: pl.DataFrame, rng: np.random.Generator, chosen: pl.Series) -> pl.DataFrame:
    north, east = (pl.Series(rng.normal(0, 0.001, rows.height)) for _ in range(2))
    fresh = {
        "latitude": (pl.col("latitude") + north).round(5),
        "longitude": (pl.col("longitude") + east).round(5),
        "uncertainty_m": pl.col("uncertainty_m") // 2 + 1,
    }
    return rows.with_columns(_where(chosen, fresh))


def _where(chosen: pl.Series, fresh: Mapping[str, pl.Expr]) -> Iterator[pl.Expr]:
    for name, value in fresh.items():
        yield pl.when(chosen).then(value).otherwise(name).alias(name)
