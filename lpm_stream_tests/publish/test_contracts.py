"""Values in columns that a company does not get: they cost it nothing."""

import polars as pl
import pytest

from lpm_stream.control import entries, parking, quarantine, registry
from lpm_stream.delivery.backfill import backfill
from lpm_stream.delivery.replay import replay
from lpm_stream.feed.entitlement import Entitlement
from lpm_stream.feed.schema import contract_schema, fit
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.publish.contracts import check_for
from lpm_stream.stream import Stream, open_stream
from lpm_stream_tests.example import SPEC, append, create_table, deliver, orders, publish, stored

_BASE, _NOTES = Entitlement(("base",)), Entitlement(("base", "notes"))


def short_notes(on_breach: str) -> FeedSpec:
    """A feed whose column `note`, of a group of its own, is too long in every row."""
    changed = {"group": "notes", "on_breach": on_breach, "max_length": 5}
    columns = [one.model_dump() | (changed if one.name == "note" else {}) for one in SPEC.columns]
    limits = {"quarantine_rows": 3, "quarantine_rows_per_minute": 3}
    return FeedSpec.model_validate(SPEC.model_dump() | {"columns": columns} | limits)


@pytest.fixture(params=["row", "value"])
def stream(request, settings):
    """Company A may get base only, B the notes, too."""
    create_table(settings.table_location(SPEC.source_table))
    with open_stream(settings, short_notes(request.param)) as opened:
        for company, groups in (("A", ("base",)), ("B", ("base", "notes"))):
            registry.register(opened.store, company)
            before = entries.read(opened.store, company).company
            with opened.store.write() as connection:
                entries.change(connection, before, before.model_copy(update={"groups": groups}))
        yield opened


def load(stream: Stream, company: str) -> int:
    return backfill(stream, company, rebuild=False, go_on=lambda: True, tell=lambda _rows, _total: None).rows


def test_a_commit_is_published_to_whom_does_not_get_what_is_wrong_in_it(stream):
    keys = [str(number) for number in range(10)]
    append(stream.table, pl.concat([orders(keys, "A"), orders(["x"], "B")]))
    publish(stream)
    deliver(stream)
    assert sorted(stored(stream, "A")) == keys
    assert quarantine.counts(stream.store, "orders") == {"B": 1}
    assert parking.read_parked(stream.store, "orders") == {}


def test_a_backfill_loads_whom_does_not_get_what_is_wrong_in_the_table(stream):
    append(stream.table, orders([str(number) for number in range(10)], "A"))
    assert load(stream, "A") == 10
    assert quarantine.counts(stream.store, "orders") == {}


def test_a_replay_clears_what_went_to_quarantine_for_a_column_that_is_not_got_any_more(stream):
    append(stream.table, orders(["1"], "B"))
    publish(stream)
    deliver(stream)
    before = entries.read(stream.store, "B").company
    with stream.store.write() as connection:
        entries.change(connection, before, before.model_copy(update={"groups": ("base",)}))
    assert replay(stream, "B").applied == 1
    assert quarantine.counts(stream.store, "orders") == {}
    assert list(stored(stream, "B")) == ["1"]


def test_each_row_is_checked_against_the_contract_of_its_company():
    spec = short_notes("value")
    rows = orders(["1", "2", "3", "4", "5"], ["A", "B", "C", "A", ""])
    rows = rows.with_columns(pl.lit("insert").alias("_change_type"))
    checked = check_for(spec, fit(spec, contract_schema(spec)), rows, {"A": _BASE, "B": _NOTES})
    assert sorted(checked.good["id"]) == ["1", "2", "3", "4"]
    assert checked.good["note"].to_list() == [None] * 4
    assert checked.good.columns == rows.columns
    assert sorted(checked.stripped["id"]) == ["2", "3"]
    assert checked.bad["id"].to_list() == ["5"]
