"""Source to company databases, on real parts."""

import sqlite3
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest
import sqlalchemy as sa
from deltalake import DeltaTable, write_deltalake

from lpm_stream.control import ledger, parking, progress, quarantine
from lpm_stream.control.registry import database_urls, register
from lpm_stream.delivery.backfill import backfill
from lpm_stream.errors import SchemaError, SourceError
from lpm_stream.stream import Stream, open_stream
from lpm_stream_tests.example import (
    SPEC,
    append,
    assert_delivered,
    create_table,
    deliver,
    orders,
    publish,
    stored,
    undelivered,
)

ODD_IDS = [
    "it's",
    "a/b",
    "..",
    "two words",
    "Zürich 🚑",
    'say "hi"',
    "x" * 300,
    "ACME",
    "acme",
    "a%20b",
    "%s",
    ":x",
    "-",
    "C:\\x",
]


def path_of(stream: Stream, company: str) -> Path:
    return Path(str(sa.make_url(database_urls(stream.store, stream.settings)[company]).database))


def refuse_inserts(stream: Stream, company: str, when: str) -> None:
    """As a company's own rules on its table would."""
    with closing(sqlite3.connect(path_of(stream, company))) as connection:
        connection.execute(
            f"CREATE TRIGGER picky BEFORE INSERT ON orders WHEN {when} BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
        connection.commit()


def test_inserts_updates_and_deletes_arrive(stream):
    append(stream.table, orders(["1", "2", "3"], ["A", "B", "A"]))
    table = DeltaTable(stream.table)
    table.update(updates={"amount": "99"}, predicate="id = '1'")
    table.delete("id = '3'")
    publish(stream)
    deliver(stream)
    assert_delivered(stream, ["A", "B"])
    assert stored(stream, "A").keys() == {"1"}


def test_a_row_that_moves_to_another_company_leaves_the_old_one(stream):
    append(stream.table, orders(["1", "2"], "A"))
    publish(stream)
    deliver(stream)
    DeltaTable(stream.table).update(updates={"customer": "'B'"}, predicate="id = '1'")
    publish(stream)
    deliver(stream)
    assert stored(stream, "A").keys() == {"2"}
    assert stored(stream, "B").keys() == {"1"}


def test_overwriting_a_companys_rows_replaces_them(stream):
    append(stream.table, orders(["1", "2", "9"], ["A", "A", "B"]))
    rewritten = orders(["2", "3"], "A", amount=7)
    write_deltalake(stream.table, rewritten.to_arrow(), mode="overwrite", predicate="customer = 'A'")
    publish(stream)
    deliver(stream)
    assert_delivered(stream, ["A", "B"])


def test_ids_are_data(stream):
    for company in ODD_IDS:
        register(stream.store, company)
    append(stream.table, orders([str(index) for index in range(len(ODD_IDS))], ODD_IDS))
    publish(stream)
    deliver(stream)
    assert_delivered(stream, ODD_IDS)
    paths = {path_of(stream, company) for company in ODD_IDS}
    assert len({str(path).lower() for path in paths}) == len(ODD_IDS)
    assert {path.parent for path in paths} == {stream.settings.home / "companies"}


def test_a_large_commit_travels_in_chunks(stream):
    append(stream.table, orders([f"{index:06}" for index in range(30_000)], ["A", "B"] * 15_000))
    done = publish(stream)
    assert done.messages > 10
    deliver(stream)
    assert_delivered(stream, ["A", "B"])
    assert ledger.read(stream.store, SPEC.name)["A"].changes == 15_000


def test_ndjson_carries_the_same(settings):
    spec = SPEC.model_copy(update={"wire_format": "ndjson"})
    create_table(settings.table_location(spec.source_table))
    with open_stream(settings, spec) as stream:
        register(stream.store, "A")
        append(stream.table, orders(["1", "2"], "A", note=None))
        append(stream.table, orders(["3"], "A", weight=None, amount=None, due=None, note="𝄞\n\"'"))
        publish(stream)
        deliver(stream)
        assert_delivered(stream, ["A"])


def test_delivering_again_changes_nothing(stream):
    append(stream.table, orders(["1", "2"], "A"))
    publish(stream)
    deliver(stream)
    with stream.store.write() as connection:  # as after restoring an older copy of the control store
        progress.write_checkpoints(connection, SPEC.name, dict.fromkeys(stream.hub.partitions(), 0))
    assert deliver(stream).changes == 0
    assert_delivered(stream, ["A"])


def test_publishing_again_changes_nothing(stream):
    append(stream.table, orders(["1", "2"], "A"))
    publish(stream)
    cursor = progress.read_cursor(stream.store, SPEC.name)
    assert cursor is not None
    DeltaTable(stream.table).delete("id = '1'")
    publish(stream)
    with stream.store.write() as connection:
        progress.write_cursor(connection, SPEC.name, cursor)
    publish(stream)
    deliver(stream)
    assert_delivered(stream, ["A"])


def test_unregistered_companies_are_counted_once(stream):
    append(stream.table, orders(["1", "2", "3"], ["A", "NEW", "NEW"]))
    publish(stream)
    [unknown] = progress.read_unknown(stream.store, SPEC.name)
    assert (unknown.company, unknown.changes, unknown.first_version) == ("NEW", 2, 1)
    with stream.store.write() as connection:
        progress.count_unknown(connection, SPEC.name, 1, {"NEW": 2})  # the same commit, sent again
    assert progress.read_unknown(stream.store, SPEC.name) == [unknown]
    deliver(stream)
    assert not (stream.settings.home / "companies" / "NEW.db").exists()


def test_rows_that_break_the_contract_go_to_quarantine(stream):
    bad = orders(["1", "2", "3", "4"], ["A", None, "", "A"])
    long = orders(["5"], "A", note="n" * 1_001)
    append(stream.table, bad)
    append(stream.table, long)
    assert publish(stream).quarantined == 3
    deliver(stream)
    assert stored(stream, "A").keys() == {"1", "4"}
    assert quarantine.counts(stream.store, SPEC.name) == {"": 2, "A": 1}


def test_a_row_the_database_refuses_costs_only_itself(stream):
    append(stream.table, orders(["0"], "A"))
    publish(stream)
    deliver(stream)
    refuse_inserts(stream, "A", when="NEW.amount = 666")
    rows = orders([f"{index:03}" for index in range(100)], "A")
    append(stream.table, rows.with_columns(amount=rows["amount"].scatter(17, 666)))
    publish(stream)
    done = deliver(stream)
    assert done.refused == 1
    assert quarantine.counts(stream.store, SPEC.name) == {"A": 1}
    assert stored(stream, "A").keys() == {"0", *(f"{index:03}" for index in range(100) if index != 17)}
    assert not parking.read_parked(stream.store, SPEC.name)


def test_a_database_of_another_company_is_refused(stream):
    append(stream.table, orders(["1", "2"], ["A", "B"]))
    path_of(stream, "A").parent.mkdir(parents=True)
    publish(stream)
    deliver(stream)
    path_of(stream, "B").unlink()
    path_of(stream, "A").rename(path_of(stream, "B"))
    append(stream.table, orders(["3"], "B"))
    publish(stream)
    deliver(stream)
    assert "belongs to company 'A'" in parking.read_parked(stream.store, SPEC.name)["B"].reason


def test_a_missing_table_is_a_clear_error(settings):
    with open_stream(settings, SPEC) as stream, pytest.raises(SourceError, match="no Delta table at"):
        publish(stream)


def test_a_table_without_change_data_feed_names_the_remedy(settings):
    create_table(settings.table_location(SPEC.source_table), cdf=False)
    with open_stream(settings, SPEC) as stream, pytest.raises(SourceError, match="SET TBLPROPERTIES"):
        publish(stream)


def test_a_table_created_anew_is_noticed(stream):
    append(stream.table, orders(["1"], "A"))
    publish(stream)
    Path(stream.table).rename(Path(stream.table).with_name("old"))
    create_table(stream.table)
    with pytest.raises(SourceError, match="its id changed"):
        publish(stream)


def test_a_new_column_is_held_back_by_freeze(stream, caplog):
    wider = orders(["1"], "A").with_columns(extra=1)
    append(stream.table, wider, schema_mode="merge")
    publish(stream)
    deliver(stream)
    assert "extra" in caplog.text
    assert "extra" not in stored(stream, "A")["1"]
    cursor = progress.read_cursor(stream.store, SPEC.name)
    assert cursor is not None
    assert cursor.held_columns == ("extra",)


def test_a_new_column_is_taken_in_by_evolve(settings):
    spec = SPEC.model_copy(update={"schema_policy": "evolve"})
    create_table(settings.table_location(spec.source_table), orders(["1"], "A"))
    with open_stream(settings, spec) as stream:
        register(stream.store, "A")
        publish(stream)
        deliver(stream)
        append(stream.table, orders(["2"], "A").with_columns(extra=7), schema_mode="merge")
        append(stream.table, orders(["3"], "A").with_columns(extra=8))
        publish(stream)
        deliver(stream)
        extra = {key: row["extra"] for key, row in stored(stream, "A").items()}
        assert extra == {"1": None, "2": 7, "3": 8}


def test_a_column_that_became_wider_is_followed_by_evolve(settings):
    spec = SPEC.model_copy(update={"schema_policy": "evolve"})
    create_table(settings.table_location(spec.source_table), orders(["1"], "A"))
    with open_stream(settings, spec) as stream:
        register(stream.store, "A")
        publish(stream)
        deliver(stream)
        wider = orders(["1", "2"], "A").with_columns(count=pl.lit(2**40, pl.Int64))
        write_deltalake(stream.table, wider.to_arrow(), mode="overwrite", schema_mode="overwrite")
        publish(stream)
        deliver(stream)
        assert [row["count"] for row in stored(stream, "A").values()] == [2**40, 2**40]
        backfill(stream, "A", rebuild=True, go_on=lambda: True, tell=lambda *_: None)
        assert [row["count"] for row in stored(stream, "A").values()] == [2**40, 2**40]


def test_after_the_contract_is_mended_publishing_goes_on_from_where_it_stopped(stream, settings):
    append(stream.table, orders(["1"], "A"))
    wider = orders(["1", "2"], "A").with_columns(count=pl.lit(2**40, pl.Int64))
    write_deltalake(stream.table, wider.to_arrow(), mode="overwrite", schema_mode="overwrite")
    with pytest.raises(SchemaError, match="column count is Int64, declared int32"):
        publish(stream)
    deliver(stream)
    columns = [
        column.model_copy(update={"type": "int64"}) if column.name == "count" else column
        for column in SPEC.columns
    ]
    with open_stream(settings, SPEC.model_copy(update={"columns": tuple(columns)})) as mended:
        publish(mended)
        deliver(mended)
        assert [row["count"] for row in stored(mended, "A").values()] == [2**40, 2**40]


def test_a_dropped_column_stops_publishing_at_its_version(stream):
    append(stream.table, orders(["1"], "A"))
    narrower = orders(["2"], "A").drop("note")
    write_deltalake(stream.table, narrower.to_arrow(), mode="overwrite", schema_mode="overwrite")
    with pytest.raises(SchemaError, match=r"column note \(string\) is missing"):
        publish(stream)
    deliver(stream)
    assert stored(stream, "A").keys() == {"1"}
    cursor = progress.read_cursor(stream.store, SPEC.name)
    assert cursor is not None
    assert cursor.version == 1


def test_everything_is_behind_the_checkpoints_when_caught_up(stream):
    append(stream.table, orders(["1", "2"], ["A", "B"]))
    publish(stream)
    assert undelivered(stream) == 2
    deliver(stream)
    assert undelivered(stream) == 0


def test_a_table_that_refuses_everything_parks_its_company(stream):
    append(stream.table, orders(["0"], "A"))
    publish(stream)
    deliver(stream)
    refuse_inserts(stream, "A", when="true")
    append(stream.table, orders([f"{index:03}" for index in range(300)], ["A", "B"] * 150))
    publish(stream)
    done = deliver(stream)
    assert done.refused == 0
    assert quarantine.counts(stream.store, SPEC.name) == {}
    assert "refuses too many rows" in parking.read_parked(stream.store, SPEC.name)["A"].reason
    assert_delivered(stream, ["B"])


def test_refused_rows_do_not_count_as_delivered(stream):
    append(stream.table, orders(["0"], "A"))
    publish(stream)
    deliver(stream)
    refuse_inserts(stream, "A", when="NEW.amount = 666")
    append(stream.table, pl.concat([orders(["1"], "A", amount=666), orders(["2", "3"], "A")]))
    publish(stream)
    deliver(stream)
    assert ledger.read(stream.store, SPEC.name)["A"].changes == 3


def test_a_feed_may_begin_behind_the_first_version(stream):
    append(stream.table, orders(["1"], "A"))
    append(stream.table, orders(["2"], "A"))
    stream.publisher(2).drain(poll_seconds=0.01, go_on=lambda: True, until_caught_up=True)
    deliver(stream)
    assert stored(stream, "A").keys() == {"2"}
    with pytest.raises(SourceError, match="leave out --from-version"):
        stream.publisher(1).drain(poll_seconds=0.01, go_on=lambda: True, until_caught_up=True)


def test_a_commit_that_does_not_say_when_counts_from_when_it_is_read(stream):
    append(stream.table, orders(["1"], "A"))
    [log] = Path(stream.table, "_delta_log").glob("*1.json")
    actions = [line for line in log.read_text().splitlines() if not line.startswith('{"commitInfo"')]
    log.write_text("\n".join(actions))
    publish(stream)
    deliver(stream)
    longest = ledger.read(stream.store, SPEC.name)["A"].quantile(1.0)
    assert longest is not None
    assert longest < 3_600
    assert_delivered(stream, ["A"])
