from datetime import UTC, datetime

import pytest

from lpm_stream.control import progress

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def test_the_cursor_is_what_was_written_last(store):
    assert progress.read_cursor(store, "f") is None
    first = progress.Cursor("id", 5, 9, ("a", "b"), taken_columns={"c, d": "string", 'e"': "int32"})
    second = progress.Cursor("id", 2**53, 2**53)
    for cursor in (first, second):
        with store.write() as connection:
            progress.write_cursor(connection, "f", cursor)
        assert progress.read_cursor(store, "f") == cursor
    assert progress.read_cursor(store, "other") is None


def test_each_partition_and_feed_has_its_checkpoint(store):
    with store.write() as connection:
        progress.write_checkpoints(connection, "f", {0: 1, 3: 2**53})
        progress.write_checkpoints(connection, "other", {0: 7})
        progress.write_checkpoints(connection, "f", {0: 2})
    assert progress.read_checkpoints(store, "f") == {0: 2, 3: 2**53}


def test_deliveries_are_kept_by_company(store):
    one, two = progress.Delivered(0, 1, 0, 2, NOW, NOW), progress.Delivered(5, 3, 1, 4, NOW, NOW)
    with store.write() as connection:
        progress.write_deliveries(connection, "f", {"A": one, "it's 🚑": one})
        progress.write_deliveries(connection, "f", {"A": two})
    assert progress.read_deliveries(store, "f") == {"A": two, "it's 🚑": one}


@pytest.mark.parametrize("versions", [[3, 5, 9], [3, 5, 5, 3, 9, 5]])
def test_unknown_companies_are_counted_once_for_each_version(store, versions):
    for version in versions:
        with store.write() as connection:
            progress.count_unknown(connection, "f", version, {"NEW": 10 * version, "it's": 1})
    assert progress.read_unknown(store, "f") == [
        progress.Unknown("NEW", 170, 3, 9),
        progress.Unknown("it's", 3, 3, 9),
    ]
    assert progress.read_unknown(store, "other") == []
