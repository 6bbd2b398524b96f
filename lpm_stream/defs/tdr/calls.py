"""Simulated emergency calls: who called from where, over which elements, when, and how it ended.

All numbers, names and addresses are those reserved for documentation: 555-01xx, example.net, 198.51.100.0/24,
203.0.113.0/24, 2001:db8::/32.
"""

import zlib
from collections.abc import Sequence

import numpy as np
import polars as pl

from lpm_stream.defs.tdr.chance import Milliseconds, hex_digits, pick
from lpm_stream.feed.schema import INSTANT

PSAPS_PER_REGION = 6

_REGIONS = pl.DataFrame(
    [
        ("tx", 512, "Austin", 30.27, -97.74),
        ("co", 303, "Denver", 39.74, -104.99),
        ("oh", 614, "Columbus", 39.96, -83.00),
        ("nc", 919, "Raleigh", 35.78, -78.64),
        ("or", 503, "Portland", 45.52, -122.68),
        ("vt", 802, "Montpelier", 44.26, -72.58),
        ("ia", 515, "Des Moines", 41.59, -93.62),
        ("nm", 505, "Santa Fe", 35.69, -105.94),
    ],
    schema=["state", "area_code", "city", "centre_latitude", "centre_longitude"],
    orient="row",
)
_PROVIDERS = {"osp1": 0.5, "osp2": 0.3, "osp3": 0.15, "osp4": 0.05}
_CLASSES = {"WPH2": 0.78, "VMBL": 0.08, "VRES": 0.05, "RESD": 0.06, "BUSN": 0.03}
_SERVICES = {"sos": 0.94, "sos.police": 0.02, "sos.fire": 0.02, "sos.ambulance": 0.02}
_DISPOSITIONS = {
    "answered": 0.72,
    "in_progress": 0.12,
    "transferred": 0.08,
    "abandoned": 0.06,
    "busy": 0.01,
    "failed": 0.01,
}
_RESPONSES = {"busy": 486, "abandoned": 487, "failed": 503}  # all others: 200
_WIRELESS_METHODS = {"A-GPS": 0.6, "Hybrid_A-GPS": 0.25, "Cell": 0.12, "": 0.03}  # "" is not located
_UNCERTAINTY_M = {"A-GPS": 12, "Hybrid_A-GPS": 30, "Cell": 900, "Manual": 25}
_WITHOUT_CALLBACK_SHARE = 0.03  # phones without service
_OVERFLOW_SHARE = 0.02


def calls(rng: np.random.Generator, companies: Sequence[str], recorded: Milliseconds) -> pl.DataFrame:
    """One row a call, in those of the contract's columns that all records of a call share.

    Traffic is uneven, as it is in life: the n-th company has 1/n of the first one's calls.

    Args:
        rng: the source of chance.
        companies: company ids.
        recorded: when each call's first record is written; all times of the call are before it.
    """
    shares = {company: 1 / rank for rank, company in enumerate(companies, start=1)}
    frame = pl.DataFrame({"info_companyid": pick(rng, shares, len(recorded))})
    regions = pl.Series([zlib.crc32(company.encode()) % len(_REGIONS) for company in shares], dtype=pl.Int64)
    homes = pl.DataFrame({"info_companyid": list(shares)}).hstack(_REGIONS[regions])
    frame = frame.join(homes, on="info_companyid", how="left", maintain_order="left")
    frame = _times(rng, _parties(rng, frame), recorded)
    return _outcome(rng, _location(rng, frame)).drop(_REGIONS.columns)


def _parties(rng: np.random.Generator, frame: pl.DataFrame) -> pl.DataFrame:
    count = frame.height
    provider = pick(rng, _PROVIDERS, count)
    psap = pl.Series(rng.integers(1, PSAPS_PER_REGION + 1, count))
    line = pl.Series(rng.integers(100, 200, count))  # 555-0100 to 555-0199
    has_callback = pl.Series(rng.random(count) >= _WITHOUT_CALLBACK_SHARE)
    caller = pl.format("+1{}5550{}", "area_code", line)
    domain = pl.format("{}.esinet.example.net", "state")
    return frame.with_columns(
        call_id=pl.format("{}@{}.example.net", hex_digits(rng, count, 16), provider),
        incident_id=pl.format("urn:emergency:uid:incidentid:{}:{}", hex_digits(rng, count, 10), domain),
        caller_number=caller,
        callback_number=pl.when(has_callback).then(caller),
        service_urn=pl.format("urn:service:{}", pick(rng, _SERVICES, count)),
        class_of_service=pick(rng, _CLASSES, count),
        trunk_group=pl.format(
            "{}-{}-{}", pl.col("state").str.to_uppercase(), provider, pl.Series(rng.integers(1, 5, count))
        ),
        esinet=domain,
        ingress_element=pl.format("bcf{}.{}", pl.Series(rng.integers(1, 4, count)), domain),
        psap_id=pl.format("psap{}.{}", psap, domain),
        psap_name=pl.format("{} Emergency Communications {}", "city", psap),
    )


def _times(rng: np.random.Generator, frame: pl.DataFrame, recorded: Milliseconds) -> pl.DataFrame:
    count = frame.height
    disposition = pick(rng, _DISPOSITIONS, count).alias("disposition")
    alerted = pl.lit(~disposition.is_in(["busy", "failed"]))
    answered = pl.lit(disposition.is_in(["answered", "transferred", "in_progress"]))
    setup = pl.Series(rng.integers(150, 900, count))
    ringing = pl.Series(1_500 + rng.exponential(3_500, count).astype(np.int64))
    talking = pl.Series(4_000 + rng.exponential(70_000, count).astype(np.int64))
    length = setup + pl.when(alerted).then(ringing).otherwise(0) + pl.when(answered).then(talking).otherwise(0)
    start = pl.Series(recorded - rng.integers(20, 200, count)) - length
    times = pl.select(
        disposition,
        call_start=start,
        setup_time=pl.when(alerted).then(start + setup),
        answer_time=pl.when(answered).then(start + setup + ringing),
        release_time=pl.when(disposition != "in_progress").then(start + length),
    )
    instants = ((pl.col(name) * 1000).cast(INSTANT) for name in times.columns[1:])
    duration = pl.col("release_time") - pl.col("answer_time")
    return frame.hstack(times.with_columns(duration.alias("duration_ms")).with_columns(instants)).with_columns(
        pl.col("call_start").dt.date().alias("call_date")
    )


def _location(rng: np.random.Generator, frame: pl.DataFrame) -> pl.DataFrame:
    count = frame.height
    wireless = pl.col("class_of_service").is_in(["WPH2", "VMBL"])
    method = pl.when(wireless).then(pick(rng, _WIRELESS_METHODS, count)).otherwise(pl.lit("Manual"))
    located = pl.col("location_method").is_not_null()
    north, east = (pl.Series(rng.normal(0, 0.2, count)) for _ in range(2))
    usual = pl.col("location_method").replace_strict(_UNCERTAINTY_M, return_dtype=pl.Float64)
    factor = pl.Series(rng.uniform(0.5, 2, count))
    return frame.with_columns(location_method=method.replace("", None)).with_columns(
        latitude=pl.when(located).then((pl.col("centre_latitude") + north).round(5)),
        longitude=pl.when(located).then((pl.col("centre_longitude") + east).round(5)),
        uncertainty_m=(usual * factor).cast(pl.Int32),
    )


def _outcome(rng: np.random.Generator, frame: pl.DataFrame) -> pl.DataFrame:
    overflowed = pl.Series(rng.random(frame.height) < _OVERFLOW_SHARE)
    other_psap = pl.Series(rng.integers(1, PSAPS_PER_REGION + 1, frame.height))
    disposition = pl.col("disposition")
    target = pl.format("sip:psap{}.{}", other_psap, "esinet")
    return frame.with_columns(
        routing_result=pl.when(pl.col("latitude").is_null())
        .then(pl.lit("default_route"))
        .when(overflowed)
        .then(pl.lit("overflow"))
        .otherwise(pl.lit("routed")),
        sip_response_code=disposition.replace_strict(_RESPONSES, default=200, return_dtype=pl.Int32),
        transfer_target=pl.when(disposition == "transferred").then(target),
        abandoned=disposition == "abandoned",
    )
