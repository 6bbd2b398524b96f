"""Which version was the newest at an instant."""

import time
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake

from lpm_stream.legacy.commits import Commits


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table with the versions 0 to 4."""
    for number in range(5):
        commit(tmp_path, number)
    return tmp_path


def commit(table: Path, number: int) -> None:
    write_deltalake(table, pl.DataFrame({"number": [number]}).to_arrow(), mode="append")
    time.sleep(0.002)  # commits are told apart by milliseconds


def instants(table: Path) -> dict[int, datetime]:
    history = DeltaTable(table).history()
    return {one["version"]: datetime.fromtimestamp(one["timestamp"] / 1000, UTC) for one in history}


@pytest.mark.parametrize("since", [0, 1, 3])
def test_commits_made_since_it_was_opened_do_not_count(table, since):
    opened = DeltaTable(table)
    for number in range(since):
        commit(table, number)
    when = instants(table)
    assert {version: Commits(opened).newest_by(when[version]) for version in range(5)} == {
        version: version for version in range(5)
    }
    assert Commits(opened).newest_by(max(when.values())) == 4
    assert Commits(opened).times(2) == {version: when[version] for version in range(5)}
    assert Commits(DeltaTable(table, version=2)).newest_by(when[4]) == 2


def test_a_commit_that_comes_while_the_log_is_read_does_not_shift_the_others(table, monkeypatch):
    opened, history, late = DeltaTable(table), DeltaTable.history, iter([7])

    def busy(self: DeltaTable, limit: int | None = None):
        for number in late:
            commit(table, number)
        return history(self, limit)

    when = instants(table)
    monkeypatch.setattr(DeltaTable, "history", busy)
    assert Commits(opened).newest_by(when[3]) == 3
