import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType

import polars as pl
import pytest
from deltalake import DeltaTable

from lpm_stream.errors import SourceError
from lpm_stream.feed.load import load_feeds
from lpm_stream.feed.schema import INSTANT, contract_schema
from lpm_stream.feed.spec import Column, FeedSpec
from lpm_stream.source import simulate
from lpm_stream.source.delta import schema_of
from lpm_stream.source.simulate import Committed, Simulator
from lpm_stream.source.simulated_table import SimulatedTable
from lpm_stream_tests import example

SPEC = load_feeds()["tdr"]
KEY = SPEC.primary_key[0]
COMPANIES = ("acme", "O'Hara", "../etc")
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def location(tmp_path: Path) -> str:
    return str(tmp_path / "tables" / SPEC.source_table)


def simulator(location: str, rate: float = 100, seed: int | None = 1, spec: FeedSpec = SPEC) -> Simulator:
    return Simulator(spec, location, COMPANIES, rate, seed)


def steps(simulated: Simulator, count: int, begin: datetime = NOW) -> list[Committed]:
    return [simulated.step(begin + timedelta(seconds=second)) for second in range(count)]


def read(location: str) -> pl.DataFrame:
    return pl.DataFrame(DeltaTable(location).scan())


def change_feed(location: str) -> pl.DataFrame:
    return pl.DataFrame(DeltaTable(location).load_cdf(0))


def in_change_feed(location: str) -> Committed:
    """What the Change Data Feed says was committed."""
    changes = change_feed(location).filter(pl.col("_change_type") != "update_preimage")
    kinds = changes["_change_type"].to_list()
    inserts, updates, deletes = (kinds.count(kind) for kind in ("insert", "update_postimage", "delete"))
    return Committed(inserts, updates, deletes, versions=changes["_commit_version"].n_unique())


def test_the_table_is_created_from_the_contract(location):
    simulator(location)
    table = DeltaTable(location)
    assert table.metadata().configuration["delta.enableChangeDataFeed"] == "true"
    assert table.metadata().name == SPEC.source_table
    assert schema_of(table) == contract_schema(SPEC)
    assert [field.nullable for field in table.schema().fields] == [column.nullable for column in SPEC.columns]


def test_the_change_feed_shows_exactly_what_was_committed(location):
    simulated = simulator(location)
    done = steps(simulated, 13)
    assert sum(done, Committed()) == simulated.committed == in_change_feed(location)
    assert simulated.committed.changes == 1_300
    assert simulated.committed.versions == 13
    assert simulated.committed.updates > simulated.committed.deletes > 0
    rows = read(location)
    assert rows.height == simulated.committed.inserts - simulated.committed.deletes
    assert rows[KEY].n_unique() == rows.height
    assert set(rows[SPEC.company_column]) == set(COMPANIES)


def test_one_commit_in_three_carries_all_kinds_of_changes(location):
    steps(simulator(location), 9)
    kinds = change_feed(location).group_by("_commit_version").agg(pl.col("_change_type").unique())
    mixed = kinds.filter(pl.col("_change_type").list.len() == 4)
    assert sorted(mixed["_commit_version"]) == [3, 6, 9]


def test_an_update_changes_the_row_and_leaves_its_company(location):
    steps(simulator(location), 9)
    changes = change_feed(location)
    columns = [*SPEC.column_names, "_commit_version"]
    before, after = (
        changes.filter(pl.col("_change_type") == kind).select(columns)
        for kind in ("update_preimage", "update_postimage")
    )
    assert before.join(after, on=columns, nulls_equal=True).is_empty()
    same_company = before.join(after, on=[KEY, SPEC.company_column, "_commit_version"])
    assert same_company.height == before.height == after.height > 0


def test_a_merge_reads_only_the_files_of_recent_rows(location):
    simulated = simulator(location)
    steps(simulated, 60)
    merges = [entry for entry in DeltaTable(location).history() if entry["operation"] == "MERGE"]
    newest = merges[0]["operationMetrics"]
    assert newest["num_target_files_skipped_during_scan"] > newest["num_target_files_scanned"]
    assert newest["num_target_rows_copied"] < 500


def test_a_restart_goes_on_with_new_keys_even_at_the_same_instants(location):
    first = simulator(location)
    steps(first, 4)
    second = simulator(location)
    steps(second, 4)
    assert in_change_feed(location) == first.committed + second.committed
    inserted = change_feed(location).filter(pl.col("_change_type") == "insert")
    assert inserted[KEY].n_unique() == inserted.height


def test_two_at_once_do_not_disturb_each_other(location, monkeypatch):
    monkeypatch.setattr(simulate, "_COMPACT_EVERY", 5)
    both = [simulator(location, seed=seed) for seed in (1, 2)]
    with ThreadPoolExecutor() as pool:
        assert [len(done) for done in pool.map(steps, both, (12, 12))] == [12, 12]
    assert in_change_feed(location) == both[0].committed + both[1].committed


def test_rows_that_somebody_else_deleted_are_not_counted_nor_brought_back(location):
    simulated = simulator(location)
    steps(simulated, 2)
    DeltaTable(location).delete()
    done = simulated.step(NOW + timedelta(seconds=2))
    assert (done.updates, done.deletes) == (0, 0)
    assert read(location).height == done.inserts


def test_compaction_changes_no_rows(location, monkeypatch):
    monkeypatch.setattr(simulate, "_COMPACT_EVERY", 5)
    simulated = simulator(location)
    steps(simulated, 13)
    assert simulated.committed == in_change_feed(location)
    assert simulated.committed.updates > 0
    table = DeltaTable(location)
    assert table.version() == simulated.committed.versions + 2
    assert len(table.file_uris()) < 13


def test_the_rate_holds_however_long_a_step_took(location):
    simulated = simulator(location, rate=100)
    assert simulated.step(NOW).changes == 100
    assert simulated.step(NOW + timedelta(seconds=2.5)).changes == 250
    assert simulated.step(NOW + timedelta(seconds=3)).changes == 50


def test_fractions_of_a_row_are_owed(location):
    done = steps(simulator(location, rate=0.4), 10)
    assert [one.changes for one in done] == [0, 0, 1, 0, 1, 0, 0, 1, 0, 1]


def test_a_long_pause_is_not_made_up_for(location):
    simulated = simulator(location, rate=10)
    simulated.step(NOW)
    assert simulated.step(NOW + timedelta(hours=3)).changes == 100


def test_a_clock_set_back_costs_nothing(location):
    simulated = simulator(location, rate=10)
    simulated.step(NOW)
    assert simulated.step(NOW - timedelta(hours=1)) == Committed()
    assert simulated.step(NOW - timedelta(hours=1) + timedelta(seconds=1)).changes == 10


def test_few_rows_a_commit_still_see_updates_and_deletes(location):
    simulated = simulator(location, rate=3)
    steps(simulated, 60)
    assert simulated.committed == in_change_feed(location)
    assert simulated.committed.updates > 0
    assert simulated.committed.deletes > 0


def test_a_backlog_has_exactly_the_rows_asked_for(location):
    simulated = simulator(location)
    done = simulated.backlog(10_500, rows_per_commit=2_000)
    assert done == simulated.committed == in_change_feed(location)
    assert done.changes == 10_500
    assert done.versions == 6
    assert done.updates > 0
    assert read(location).filter(pl.col(SPEC.event_time_column) >= datetime.now(UTC)).is_empty()


def test_running_ends_in_time(location):
    simulated = simulator(location)
    assert simulated.run(threading.Event(), seconds=0.01).changes == 100
    assert simulated.committed == in_change_feed(location)


def test_running_ends_when_told(location):
    stop = threading.Event()
    stop.set()
    assert simulator(location).run(stop) == Committed()


def test_stopping_interrupts_the_pause(location):
    simulated, stop = simulator(location), threading.Event()
    running = threading.Thread(target=simulated.run, args=(stop,))
    running.start()
    stop.set()
    running.join(timeout=60)
    assert not running.is_alive()


def test_a_feed_without_a_simulator_is_named(location):
    with pytest.raises(SourceError, match=r"feed unheard_of cannot be simulated"):
        simulator(location, spec=SPEC.model_copy(update={"name": "unheard_of"}))


def test_a_place_that_cannot_hold_a_table_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SourceError, match="cannot be written"):
        simulator(str(tmp_path / "file" / "table"))


def test_any_feed_can_be_simulated(location, monkeypatch):
    module = ModuleType("simulate")
    module.new_rows = _new_readings  # type: ignore[attr-defined]
    module.corrected = lambda rng, rows, now: rows.with_columns(value=pl.col("value") + 1)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lpm_stream.defs.meter.simulate", module)
    simulated = simulator(location, spec=METER)
    steps(simulated, 9)
    assert simulated.committed == in_change_feed(location)
    assert simulated.committed.updates > 0


METER = FeedSpec(
    name="meter",
    description="readings",
    source_table="readings",
    company_column="owner",
    primary_key=("meter", "order"),
    event_time_column="read_at",
    columns=(
        Column(name="owner", type="string", nullable=False, max_length=20, description="owner"),
        Column(name="meter", type="string", nullable=False, description="meter"),
        Column(name="order", type="int64", nullable=False, description="number of the reading"),
        Column(name="read_at", type="timestamp", nullable=False, description="when"),
        Column(name="value", type="float64", description="reading"),
    ),
)


def _new_readings(rng, companies, count, now) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "value": rng.random(count),
            "order": rng.choice(10**15, size=count, replace=False),
            "meter": ["it's \\ a % meter"] * count,
            "owner": [companies[0]] * count,
            "read_at": pl.Series([now] * count, dtype=INSTANT),
        }
    )


def test_it_writes_to_no_table_of_somebody_else(tmp_path):
    location = str(tmp_path / "real")
    example.create_table(location, example.orders(["1"], "A"))
    with pytest.raises(SourceError, match="was not made by the simulator"):
        SimulatedTable(example.SPEC, location)
    assert DeltaTable(location).version() == 0
