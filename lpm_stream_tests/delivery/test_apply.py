from collections.abc import Sequence

import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lpm_stream.control.quarantine import Refused
from lpm_stream.delivery.apply import Applied, Batch, apply
from lpm_stream.delivery.database import CompanyDatabase
from lpm_stream.delivery.mssql import MssqlDatabase
from lpm_stream.delivery.sqlite import SqliteDatabase
from lpm_stream.delivery.watermark import ChangesMissingError, Watermark
from lpm_stream.errors import HubError, LeaseLostError, TargetFaultError
from lpm_stream.feed.schema import CHANGE_TYPE
from lpm_stream.hub.codec import NDJSON, encode, to_wire
from lpm_stream.hub.message import Received
from lpm_stream_tests.delivery.databases import (
    amounts,
    carrying,
    changes,
    picky,
    query,
    received,
    run,
    store,
    watermark,
)
from lpm_stream_tests.example import SPEC

REFUSED = "NEW.amount = 666"


class Crash(BaseException):
    """Nobody catches it."""


def applied(
    database: CompanyDatabase,
    batch: Sequence[Received],
    quarantined: list[Refused] | None = None,
    fence: int = 7,
    before: int = 0,
) -> Applied:
    quarantined = [] if quarantined is None else quarantined
    return apply(SPEC, database, Batch(batch, fence, before), quarantined.extend)


def keys(refused: Sequence[Refused]) -> list[str]:
    return sorted(pl.read_json(row.payload.encode())["id"][0] for row in refused)


def test_what_counts_for_a_key_is_its_newest_change(database):
    batch = received(
        carrying(1, changes("insert", "1", "2", "3", "4")),
        carrying(2, changes("update_postimage", "1", amount=2), changes("delete", "2", "3")),
        carrying(3, changes("delete", "1"), changes("insert", "3", amount=3)),
        carrying(4, changes("insert", "1", amount=4)),
    )
    done = applied(database, batch)
    assert amounts(database) == {"1": 4, "3": 3, "4": 1}
    assert done.watermark == watermark(database)
    assert (done.watermark.version, done.watermark.sequence_number, done.watermark.changes) == (4, 4, 10)
    assert done.messages == tuple(one.message for one in batch)


@pytest.mark.parametrize("kinds", [("delete", "insert"), ("insert", "delete")])
@pytest.mark.parametrize("chunks", [1, 2])
def test_within_a_version_an_upsert_wins_over_a_delete(database, kinds, chunks):
    applied(database, received(carrying(1, changes("insert", "1"))))
    both = [changes(kind, "1", amount=5) for kind in kinds]
    if chunks == 1:
        batch = [carrying(2, *both)]
    else:
        batch = [carrying(2, part, chunk=index, last=index == 1) for index, part in enumerate(both)]
    for one in received(*batch, start=2):
        applied(database, [one])
    assert amounts(database) == {"1": 5}
    assert watermark(database).version == 2


@pytest.fixture
def refusing(database: CompanyDatabase) -> CompanyDatabase:
    """A database whose table refuses rows."""
    picky(database, REFUSED)
    return database


def finds(database: CompanyDatabase, bad: set[int], split: int) -> None:
    """Has the table refuse these of 30 rows, in two messages."""
    run(database, "DELETE FROM orders")
    store(database, Watermark(fence=7))
    rows = changes("insert", *map(str, range(30)))
    rows = rows.with_columns(amount=pl.Series([666 if number in bad else number for number in range(30)]))
    quarantined: list[Refused] = []
    done = applied(database, received(carrying(1, rows.head(split)), carrying(2, rows.tail(-split))), quarantined)
    assert keys(quarantined) == sorted(map(str, bad))
    assert amounts(database) == {str(number): number for number in range(30) if number not in bad}
    assert done.refused == len(bad)
    assert done.watermark.version == 2
    assert done.watermark.changes == 30 - len(bad)
    assert {row.stage for row in quarantined} <= {"deliver"}
    assert all("not here" in row.reason or "picky" in row.reason for row in quarantined)


ANY_ROWS = given(bad=st.sets(st.integers(0, 29), max_size=10), split=st.integers(1, 29))
ONE_TABLE = [HealthCheck.function_scoped_fixture]  # which is emptied each time


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
@settings(max_examples=25, suppress_health_check=ONE_TABLE)
@ANY_ROWS
def test_exactly_the_refused_rows_are_found(refusing, bad, split):
    """However many there are and wherever they stand."""
    finds(refusing, bad, split)


@pytest.mark.parametrize("place", ["postgresql", "tsql", "pyodbc", "mssql"], indirect=True)
@settings(max_examples=3, suppress_health_check=ONE_TABLE)
@example(bad={0, 14, 15, 29}, split=15)
@ANY_ROWS
def test_exactly_the_refused_rows_are_found_by_a_server(refusing, bad, split):
    """The same with fewer examples, which take longer."""
    finds(refusing, bad, split)


def test_a_table_that_refuses_most_rows_is_the_problem_itself(database):
    """So a constraint that somebody adds by mistake does not send a day's rows to quarantine."""
    picky(database, "NEW.amount >= 13")
    rows = changes("insert", *map(str, range(30)))
    rows = rows.with_columns(amount=pl.Series(list(range(30))))
    quarantined: list[Refused] = []
    with pytest.raises(TargetFaultError, match="too many rows") as caught:
        applied(database, received(carrying(1, rows)), quarantined)
    assert "not here" not in str(caught.value)  # a trigger's own words may quote the row
    assert quarantined == []
    assert amounts(database) == {}
    assert watermark(database).version == -1


def test_a_key_whose_newest_row_is_refused_keeps_its_older_one(database):
    picky(database, REFUSED)
    quarantined: list[Refused] = []
    batch = received(
        carrying(1, changes("insert", "1", "2", "3")),
        carrying(2, changes("update_postimage", "1", amount=2)),
        carrying(3, changes("update_postimage", "1", "2", amount=666)),
        carrying(4, changes("delete", "3")),
        carrying(5, changes("insert", "3", amount=666)),
    )
    done = applied(database, batch, quarantined)
    assert amounts(database) == {"1": 2, "2": 1}
    assert [(row.version, row.company) for row in quarantined] == [(3, "A"), (3, "A"), (5, "A")]
    assert done.watermark.version == 5


def test_a_refused_row_is_quarantined_before_its_neighbours_are_committed(database):
    picky(database, REFUSED)
    batch = received(carrying(1, changes("insert", "1"), changes("insert", "2", amount=666)))

    def crash(_refused: Sequence[Refused]) -> None:
        raise Crash

    with pytest.raises(Crash):
        apply(SPEC, database, Batch(batch, 7, 0), crash)
    assert amounts(database) == {}
    assert watermark(database).version == -1
    quarantined: list[Refused] = []
    applied(database, batch, quarantined)
    assert keys(quarantined) == ["2"]


def test_a_refused_row_that_comes_again_is_not_refused_again(database):
    picky(database, REFUSED)
    first = carrying(1, changes("insert", "1"), changes("insert", "2", amount=666))
    second = carrying(2, changes("insert", "3"), changes("insert", "4", amount=666))
    applied(database, received(first))
    quarantined: list[Refused] = []
    done = applied(database, received(first, second), quarantined)
    assert keys(quarantined) == ["4"]
    assert done.watermark.changes == 2
    assert done.messages == (second,)


def test_a_row_of_another_company_cannot_get_in(database):
    quarantined: list[Refused] = []
    misrouted = carrying(1, changes("insert", "1"), changes("insert", "2", company="B"))
    applied(database, received(misrouted), quarantined)
    assert amounts(database) == {"1": 1}
    assert keys(quarantined) == ["2"]
    assert quarantined[0].company == "B"
    assert "check constraint" in quarantined[0].reason.lower()


def test_a_row_of_another_company_cannot_take_the_place_of_one_that_is_there(database):
    applied(database, received(carrying(1, changes("insert", "1"))))
    quarantined: list[Refused] = []
    applied(database, received(carrying(2, changes("insert", "1", company="B", amount=9)), start=2), quarantined)
    assert amounts(database) == {"1": 1}
    assert len(quarantined) == 1


def test_a_delete_of_another_companys_row_removes_nothing(database):
    applied(database, received(carrying(1, changes("insert", "1"))))
    applied(database, received(carrying(2, changes("delete", "1", company="B")), start=2))
    assert amounts(database) == {"1": 1}


def test_rows_that_are_only_refused_together_are_not_lost(database):
    in_sqlite = isinstance(database, SqliteDatabase)  # which adds no constraints to a table
    own = "CREATE UNIQUE INDEX own ON orders" if in_sqlite else "ALTER TABLE orders ADD CONSTRAINT own UNIQUE"
    run(database, f"{own} (amount)")
    batch = received(carrying(1, changes("insert", "1", "2")))
    quarantined: list[Refused] = []
    with pytest.raises(TargetFaultError, match="refuses rows together that it takes one by one"):
        applied(database, batch, quarantined)
    assert quarantined == []
    assert amounts(database) == {}
    run(database, "DROP INDEX own" if in_sqlite else "ALTER TABLE orders DROP CONSTRAINT own")
    applied(database, batch)
    assert amounts(database) == {"1": 1, "2": 1}


def test_what_the_watermark_covers_does_nothing(database):
    batch = received(carrying(1, changes("insert", "1")), carrying(2, changes("delete", "1")))
    before = applied(database, batch).watermark
    again = applied(database, batch)
    assert (again.watermark, again.messages) == (before, ())
    late = applied(database, received(carrying(1, changes("insert", "1")), start=3))
    assert (late.watermark, late.messages) == (before, ())
    assert amounts(database) == {}


def test_a_database_that_knows_less_than_it_did_is_noticed(database):
    applied(database, received(carrying(1, changes("insert", "1"))))
    with pytest.raises(ChangesMissingError, match="from behind message 1") as caught:
        applied(database, received(carrying(5, changes("insert", "5")), start=5), before=4)
    assert caught.value.watermark == watermark(database)
    assert amounts(database) == {"1": 1}


def test_a_worker_with_an_older_lease_cannot_commit(database):
    applied(database, received(carrying(1, changes("insert", "1"))), fence=8)
    with pytest.raises(LeaseLostError, match="newer lease"):
        applied(database, received(carrying(2, changes("insert", "2")), start=2), fence=7)
    assert amounts(database) == {"1": 1}
    assert watermark(database).version == 1


def test_messages_without_rows_move_the_watermark(database):
    done = applied(database, received(carrying(1), carrying(2)))
    assert (done.watermark.version, done.watermark.sequence_number, done.watermark.changes) == (2, 2, 0)
    assert query(database, "SELECT count(*) FROM orders") == [(0,)]


def test_both_formats_in_one_batch(database):
    rows = changes("insert", "2", amount=2)
    json = carrying(2, rows, content_type=NDJSON, body=encode(to_wire(rows, NDJSON), NDJSON))
    applied(database, received(carrying(1, changes("insert", "1")), json, carrying(3, changes("insert", "3"))))
    assert amounts(database) == {"1": 1, "2": 2, "3": 1}


@pytest.mark.parametrize(
    "wrong",
    [{"body": b"garbage"}, {"rows": 3}, {"rows": 1}, {"content_type": "text/csv"}, {"content_type": NDJSON}],
    ids=str,
)
def test_a_message_that_is_not_what_it_says_changes_nothing(database, wrong):
    batch = received(carrying(1, changes("insert", "1")), carrying(2, changes("insert", "2", "3"), **wrong))
    with pytest.raises(HubError):
        applied(database, batch)
    assert amounts(database) == {}
    assert watermark(database).version == -1


def test_an_error_does_not_quote_rows(database):
    secret = b'{"id": "secret", "amount": "secret"}\n'
    with pytest.raises(HubError) as caught:
        applied(database, received(carrying(1, rows=1, body=secret, content_type=NDJSON)))
    assert "secret" not in str(caught.value)


def test_columns_that_come_and_widen_in_one_batch(database):
    batch = received(
        carrying(1, changes("insert", "1")),
        carrying(2, changes("insert", "2").with_columns(extra=pl.lit(2, pl.Int32))),
        carrying(3, changes("insert", "3").with_columns(extra=pl.lit(2**40))),
    )
    applied(database, batch)
    assert query(database, "SELECT id, extra FROM orders ORDER BY id") == [("1", None), ("2", 2), ("3", 2**40)]


def test_a_further_column_that_is_null_throughout(database):
    def json(version: int, key: str, extra: int | None) -> Received:
        rows = changes("insert", key).with_columns(pl.lit(extra, pl.Int64).alias("extra"))
        body = encode(to_wire(rows, NDJSON), NDJSON)
        [one] = received(carrying(version, rows, content_type=NDJSON, body=body), start=version)
        return one

    applied(database, [json(1, "1", None)])
    applied(database, [json(2, "1", None), json(3, "2", 7)])
    applied(database, [json(4, "2", None)])
    assert query(database, "SELECT id, extra FROM orders ORDER BY id") == [("1", None), ("2", None)]


def test_a_change_type_is_never_stored(database):
    applied(database, received(carrying(1, changes("insert", "1"))))
    with pytest.raises(TargetFaultError, match=CHANGE_TYPE):
        query(database, f"SELECT {CHANGE_TYPE} FROM orders")
    [row] = query(database, "SELECT * FROM orders")
    lengths = int(isinstance(database, MssqlDatabase))  # of the key, which SQL Server compares with it
    assert len(row) == len([*SPEC.column_names, "_commit_version"]) + lengths
