"""A demo begins with a hub and databases of its own, or not at all."""

from dataclasses import replace
from pathlib import Path

import pytest

from lpm_stream.control import registry
from lpm_stream.control.store import ControlStore
from lpm_stream.demo.places import require_own_places
from lpm_stream.errors import LpmStreamError
from lpm_stream.stream import Stream
from lpm_stream_tests.example import append, deliver, orders, publish


@pytest.fixture
def used(stream: Stream) -> Stream:
    """A stream that has published and delivered."""
    append(stream.table, orders(["1", "2"], ["A", "B"]))
    publish(stream)
    deliver(stream)
    return stream


def begun_anew(stream: Stream, directory: Path) -> Stream:
    """The same hub and databases, under a control store that knows of nothing."""
    store = ControlStore(f"sqlite:///{directory / 'another.db'}")
    registry.register(store, "A")
    return replace(stream, store=store)


def test_one_that_goes_on_takes_what_it_has(used: Stream) -> None:
    require_own_places(used)


def test_one_that_begins_makes_its_databases(stream: Stream) -> None:
    require_own_places(stream)
    assert sorted(path.name for path in (stream.settings.home / "companies").glob("*.db")) == ["A.db", "B.db"]


def test_messages_of_another_are_refused(used: Stream, tmp_path: Path) -> None:
    with pytest.raises(LpmStreamError, match="the hub has messages already"):
        require_own_places(begun_anew(used, tmp_path))


def test_rows_of_another_are_refused(used: Stream, tmp_path: Path) -> None:
    class EmptyHub:
        def partitions(self) -> list[int]:
            return []

    again = replace(begun_anew(used, tmp_path), hub=EmptyHub())  # type: ignore[arg-type] # nothing else is asked
    with pytest.raises(LpmStreamError, match="company 'A' has rows already"):
        require_own_places(again)
