import re
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal, assert_frame_not_equal

from lpm_stream.defs.tdr.simulate import corrected, new_rows
from lpm_stream.feed.contract import check
from lpm_stream.feed.load import load_feeds
from lpm_stream.feed.schema import contract_schema, fit

SPEC = load_feeds()["tdr"]
NOW = datetime(2026, 3, 1, 12, 0, 0, 123_456, tzinfo=UTC)
COMPANIES = [f"company-{number}" for number in range(20)]
KEPT = ["tdr_id", "info_companyid", "call_id", "call_start", "sipreq"]


def rows(count: int = 4_000, seed: int = 1, now: datetime = NOW, companies=COMPANIES) -> pl.DataFrame:
    return new_rows(np.random.default_rng(seed), companies, count, now)


def breaches(frame: pl.DataFrame) -> list[str]:
    changes = frame.with_columns(pl.lit("insert").alias("_change_type"))
    return check(SPEC, fit(SPEC, frame.schema), changes).bad["_reason"].to_list() if frame.height else []


def header(sipreq: str, name: str) -> str:
    found: list[str] = re.findall(rf"^{name}: (.*)\r$", sipreq, flags=re.MULTILINE)
    assert len(found) == 1, f"{len(found)} headers {name}"
    return found[0]


def test_the_contract_describes_every_column():
    assert 28 <= len(SPEC.columns) <= 30
    assert all(len(column.description) > 20 for column in SPEC.columns)
    assert {column.type for column in SPEC.columns} == {
        *("string", "int32", "int64", "float64", "boolean", "timestamp", "date")
    }


@pytest.mark.parametrize("count", [1, 2, 3, 400])
def test_new_rows_fit_the_contract(count):
    frame = rows(count)
    assert frame.height == count
    assert frame.select(SPEC.column_names).schema == contract_schema(SPEC)
    assert frame.width == len(SPEC.columns)
    assert breaches(frame) == []


def test_rows_are_repeatable_by_their_seed():
    assert_frame_equal(rows(seed=5), rows(seed=5))
    assert_frame_not_equal(rows(seed=5), rows(seed=6))


def test_keys_are_unique_and_sort_by_time():
    batches = [rows(3_000, seed, NOW + timedelta(seconds=2 * seed)) for seed in range(4)]
    keys = pl.concat(batches)["tdr_id"]
    assert keys.n_unique() == 12_000
    assert keys.is_sorted()
    assert keys.str.contains("^[0-9A-HJKMNP-TV-Z]{26}$").all()


def test_keys_are_unique_among_writers_at_the_same_instant():
    assert pl.concat([rows(3_000, seed) for seed in range(4)])["tdr_id"].n_unique() == 12_000


def test_every_company_calls_and_the_first_calls_most():
    traffic = rows()["info_companyid"].value_counts()
    assert set(traffic["info_companyid"]) == set(COMPANIES)
    assert traffic.sort("count")["info_companyid"][-1] == COMPANIES[0]


def test_company_ids_are_data():
    strange = ["O'Hara & Sons", "../etc", "💥", '"; DROP TABLE x; --']
    frame = rows(companies=strange)
    assert set(frame["info_companyid"]) == set(strange)
    assert breaches(frame) == []


def test_the_times_of_a_call_are_in_order_and_past():
    for early, late in (
        ("call_start", "setup_time"),
        ("setup_time", "answer_time"),
        ("answer_time", "release_time"),
    ):
        assert rows().filter(pl.col(early) >= pl.col(late)).is_empty()
    assert rows().select(pl.col(pl.Datetime).max()).max_horizontal().item() < NOW
    assert rows().filter(pl.col("call_date") != pl.col("call_start").dt.date()).is_empty()


def test_outcomes_agree():
    frame = rows()
    assert frame.filter(pl.col("abandoned") != (pl.col("disposition") == "abandoned")).is_empty()
    assert frame.filter(pl.col("abandoned") & pl.col("answer_time").is_not_null()).is_empty()
    in_progress = frame.filter(pl.col("disposition") == "in_progress")
    assert in_progress["release_time"].null_count() == in_progress["duration_ms"].null_count()
    assert in_progress["release_time"].null_count() == in_progress.height > 0
    assert frame["transfer_target"].is_not_null().equals(frame["disposition"] == "transferred")


def test_one_row_in_four_is_an_invite_and_carries_its_text():
    frame = rows()
    invites = frame.filter(pl.col("transaction_type") == "invite")
    assert invites.height == 1_000
    assert invites["sipreq"].null_count() == 0
    assert frame["sipreq"].null_count() == 3_000


def test_sipreq_is_a_well_formed_invite_that_agrees_with_its_row():
    for row in rows().filter(pl.col("sipreq").is_not_null()).iter_rows(named=True):
        sipreq = row["sipreq"]
        head, _, body = sipreq.partition("\r\n\r\n")
        assert sipreq.startswith(f"INVITE {row['service_urn']} SIP/2.0\r\n")
        assert "\n" not in sipreq.replace("\r\n", "")
        assert 900 <= len(sipreq.encode()) <= 1_100
        assert int(header(sipreq, "Content-Length")) == len(body.encode())
        assert header(sipreq, "Call-ID") == row["call_id"]
        assert f"sip:{row['caller_number']}@" in header(sipreq, "From")
        assert f"sip:{row['caller_number']}@" in header(sipreq, "P-Asserted-Identity")
        assert row["psap_id"] in header(sipreq, "Route")
        assert f"<{row['incident_id']}>;purpose=emergency-IncidentId" in head
        assert ("\r\nGeolocation: " in head) == (row["latitude"] is not None)
        assert body.startswith("v=0\r\n")
        assert "\r\nm=audio " in body


def test_addresses_and_numbers_are_reserved_for_documentation():
    frame = rows()
    assert frame["caller_number"].str.contains(r"^\+1\d{3}55501\d\d$").all()
    text = "\n".join(frame["sipreq"].drop_nulls())
    assert set(re.findall(r"\b(\d+\.\d+\.\d+)\.\d+\b", text)) == {"198.51.100", "203.0.113"}
    assert all(host.endswith(".example.net") for host in re.findall(r"[\w.-]+\.(?:net|com|org)\b", text))


def test_corrections_change_every_row_but_not_what_identifies_it():
    before = rows()
    after = corrected(np.random.default_rng(2), before, NOW + timedelta(seconds=30))
    assert after.schema == before.schema
    assert_frame_equal(after.select(KEPT), before.select(KEPT))
    assert before.join(after, on=before.columns, nulls_equal=True).is_empty()
    assert breaches(after) == []
    assert after["release_time"].null_count() == 0
    assert after.filter(pl.col("release_time") <= pl.col("answer_time")).is_empty()
    for column in ("psap_id", "psap_name", "latitude", "disposition"):
        assert not after[column].equals(before[column], null_equal=True)


def test_corrections_can_be_corrected():
    rng = np.random.default_rng(2)
    once = corrected(rng, rows(), NOW + timedelta(seconds=30))
    twice = corrected(rng, once, NOW + timedelta(seconds=60))
    assert once.join(twice, on=once.columns, nulls_equal=True).is_empty()
    assert breaches(twice) == []
