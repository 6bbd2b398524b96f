import shutil
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake

from lpm_stream.errors import SchemaError, SourceError
from lpm_stream.feed.schema import CHANGE_TYPE
from lpm_stream.source import delta
from lpm_stream.source.delta import DeltaSource
from lpm_stream_tests.example import SPEC, append, create_table, orders


@pytest.fixture
def location(tmp_path: Path) -> str:
    return str(tmp_path / "orders_gold")


def read(source: DeltaSource, version: int) -> list[tuple[str, str, int]]:
    """Change type, key and amount of each change of a version."""
    return [
        (row[CHANGE_TYPE], row["id"], row["amount"])
        for batch in source.changes(version).batches
        for row in batch.sort("id", CHANGE_TYPE).iter_rows(named=True)
    ]


def test_each_kind_of_change_comes_with_its_version(location):
    create_table(location, orders(["1", "2", "3"], "A"))
    before = datetime.now(UTC)
    DeltaTable(location).update(updates={"amount": "9"}, predicate="id = '1'")
    DeltaTable(location).delete("id = '2'")
    source = DeltaSource(SPEC, location)
    assert source.newest_version() == 2
    assert read(source, 0) == [("insert", "1", 1), ("insert", "2", 1), ("insert", "3", 1)]
    assert read(source, 1) == [("update_postimage", "1", 9), ("update_preimage", "1", 1)]
    assert read(source, 2) == [("delete", "2", 1)]
    [batch] = source.changes(1).batches
    assert batch["_commit_version"].unique().to_list() == [1]
    [committed_at] = batch["_commit_timestamp"].unique()
    assert abs((committed_at.replace(tzinfo=UTC) - before).total_seconds()) < 60


def test_new_commits_are_seen(location):
    create_table(location)
    source = DeltaSource(SPEC, location)
    for version in range(1, 4):
        assert source.newest_version() == version - 1
        append(location, orders([str(version)], "A"))
        assert source.newest_version() == version
        assert read(source, version) == [("insert", str(version), 1)]


def test_many_versions_behind(location, monkeypatch):
    monkeypatch.setattr(delta, "_VERSIONS_AHEAD", 4)
    create_table(location)
    for version in range(1, 15):
        append(location, orders([str(version)], "A"))
    source = DeltaSource(SPEC, location)
    for version in [*range(1, 15), 1, 14, 7]:
        assert read(source, version) == [("insert", str(version), 1)]


def test_a_large_commit_comes_in_several_frames(location, monkeypatch):
    monkeypatch.setattr(delta, "_FRAME_ROWS", 10_000)
    create_table(location)
    append(location, orders([f"{number:06}" for number in range(50_000)], "A"))
    heights = [batch.height for batch in DeltaSource(SPEC, location).changes(1).batches]
    assert sum(heights) == 50_000
    assert max(heights) < 20_000


def test_commits_without_changes_have_no_rows(location):
    create_table(location, orders(["1"], "A"))
    append(location, orders(["2"], "A"))
    append(location, orders([], []))
    DeltaTable(location).optimize.compact()
    source = DeltaSource(SPEC, location)
    assert source.newest_version() == 3
    assert [read(source, version) for version in (2, 3)] == [[], []]


def test_overwriting_everything_deletes_and_inserts(location):
    create_table(location, orders(["1", "2"], "A"))
    write_deltalake(location, orders(["2", "3"], "B", amount=7).to_arrow(), mode="overwrite")
    assert sorted(read(DeltaSource(SPEC, location), 1)) == [
        ("delete", "1", 1),
        ("delete", "2", 1),
        ("insert", "2", 7),
        ("insert", "3", 7),
    ]


def test_restoring_an_older_version_is_a_commit_like_others(location):
    create_table(location, orders(["1"], "A"))
    append(location, orders(["2"], "A"))
    source = DeltaSource(SPEC, location)
    assert source.newest_version() == 1
    DeltaTable(location).restore(0)
    assert source.newest_version() == 2
    assert read(source, 2) == [("delete", "2", 1)]


def test_the_schema_of_each_version_is_its_own(location):
    create_table(location, orders(["1"], "A"))
    append(location, orders(["2"], "A").with_columns(extra=5), schema_mode="merge")
    append(location, orders(["3"], "A").with_columns(extra=6))
    narrower = orders(["4"], "A").drop("note")
    write_deltalake(location, narrower.to_arrow(), mode="overwrite", schema_mode="overwrite")
    source = DeltaSource(SPEC, location)
    assert [source.changes(version).fit.held for version in range(3)] == [(), ("extra",), ("extra",)]
    assert read(source, 2) == [("insert", "3", 1)]
    with pytest.raises(SchemaError, match=r"column note \(string\) is missing"):
        source.changes(3)


def test_a_narrower_type_fits(location):
    narrow = orders(["1"], "A").with_columns(pl.col("amount").cast(pl.Int32), pl.col("weight").cast(pl.Float32))
    create_table(location, narrow)
    assert read(DeltaSource(SPEC, location), 0) == [("insert", "1", 1)]


def test_no_table_is_an_error(location):
    with pytest.raises(SourceError, match="no Delta table at"):
        DeltaSource(SPEC, location)
    Path(location).mkdir()
    with pytest.raises(SourceError, match="no Delta table at"):
        DeltaSource(SPEC, location)


def test_a_damaged_log_is_an_error(location):
    create_table(location)
    log = Path(location) / "_delta_log" / "00000000000000000000.json"
    log.write_text("garbage\n")
    with pytest.raises(SourceError, match="cannot be opened"):
        DeltaSource(SPEC, location)


def test_change_data_feed_has_to_be_on(location):
    create_table(location, cdf=False)
    with pytest.raises(SourceError, match=r"ALTER TABLE orders_gold SET TBLPROPERTIES"):
        DeltaSource(SPEC, location)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"garbage" * 100)])
@pytest.mark.parametrize("kind", ["_change_data/*.parquet", "*.parquet"])
def test_a_version_whose_files_are_gone_or_damaged_is_an_error(location, damage, kind):
    create_table(location, orders(["1"], "A"))
    DeltaTable(location).update(updates={"amount": "9"}, predicate="id = '1'")
    version = 1 if "change" in kind else 0
    source = DeltaSource(SPEC, location)
    for path in Path(location).glob(kind):
        damage(path)
    with pytest.raises(SourceError, match=f"version {version} of table .* be read"):
        read(source, version)


def test_a_version_whose_log_is_cleaned_up_is_an_error(location):
    create_table(location, orders(["1"], "A"))
    append(location, orders(["2"], "A"))
    DeltaTable(location).create_checkpoint()
    (Path(location) / "_delta_log" / "00000000000000000000.json").unlink()
    source = DeltaSource(SPEC, location)
    with pytest.raises(SourceError, match=r"version 0 of table .* be read"):
        read(source, 0)
    assert read(source, 1) == [("insert", "2", 1)]


@pytest.mark.parametrize("versions", [1, 2, 5])
def test_a_table_created_anew_is_noticed_whatever_its_version(location, versions):
    create_table(location, orders(["1"], "A"))
    append(location, orders(["2"], "A"))
    source = DeltaSource(SPEC, location)
    assert source.newest_version() == 1
    shutil.rmtree(location)
    create_table(location, orders(["8"], "A"))
    for version in range(1, versions):
        append(location, orders([f"9{version}"], "A"))
    with pytest.raises(SourceError, match="removed or replaced"):
        source.newest_version()


def test_a_table_that_is_gone_is_noticed(location):
    create_table(location, orders(["1"], "A"))
    source = DeltaSource(SPEC, location)
    assert source.newest_version() == 0
    shutil.rmtree(location)
    with pytest.raises(SourceError, match="removed or replaced"):
        source.newest_version()


def test_a_table_replaced_within_its_log_is_noticed(location):
    """As CREATE OR REPLACE TABLE does: the log goes on, the table's id is new."""
    create_table(location, orders(["1"], "A"))
    source = DeltaSource(SPEC, location)
    configuration = {"delta.enableChangeDataFeed": "true"}
    DeltaTable.create(
        location, schema=DeltaTable(location).schema(), mode="overwrite", configuration=configuration
    )
    assert DeltaTable(location).version() == 1
    with pytest.raises(SourceError, match="replaced"):
        source.newest_version()


def test_commits_that_say_nothing_of_themselves_are_followed(location):
    """The log's commitInfo is optional."""
    create_table(location, orders(["1"], "A"))
    source = DeltaSource(SPEC, location)
    assert source.newest_version() == 0
    for version in range(1, 4):
        append(location, orders([f"2{version}"], "A"))
        log = Path(location) / "_delta_log" / f"{version:020}.json"
        actions = [line for line in log.read_text().splitlines() if not line.startswith('{"commitInfo"')]
        log.write_text("\n".join(actions))
        assert source.newest_version() == version
        assert source.newest_version() == version
    append(location, orders(["3"], "A"))
    for _ in range(2):
        assert source.newest_version() == 4
    shutil.rmtree(location)
    with pytest.raises(SourceError, match="removed or replaced"):
        source.newest_version()


def test_a_column_that_is_dropped_and_brought_back_stops_at_the_version_without_it(location):
    rows = orders(["1"], "A")
    create_table(location, rows)
    for columns in (rows.drop("note"), rows):
        write_deltalake(location, columns.to_arrow(), mode="overwrite", schema_mode="overwrite")
    source = DeltaSource(SPEC, location)
    read(source, 0)
    with pytest.raises(SchemaError, match=r"column note \(string\) is missing"):
        source.changes(1)
    assert ("insert", "1", 1) in read(source, 2)


def test_a_partition_that_cannot_be_read_is_named(location):
    rows = orders(["1", "2"], ["it's", "two words"]).to_arrow()
    write_deltalake(
        location, rows, partition_by=["customer"], configuration={"delta.enableChangeDataFeed": "true"}
    )
    with pytest.raises(SourceError, match=r"partitioned by customer, .*a defect of deltalake"):
        read(DeltaSource(SPEC, location), 0)


def test_a_partitioned_table_is_read(location):
    rows = orders(["1", "2"], ["A", "B"]).to_arrow()
    write_deltalake(
        location, rows, partition_by=["customer"], configuration={"delta.enableChangeDataFeed": "true"}
    )
    DeltaTable(location).delete("id = '2'")
    source = DeltaSource(SPEC, location)
    assert read(source, 0) == [("insert", "1", 1), ("insert", "2", 1)]
    assert read(source, 1) == [("delete", "2", 1)]
