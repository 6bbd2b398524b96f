import json
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from lpm_stream.errors import HubError, HubGapError, LpmStreamError
from lpm_stream.hub.local import LocalHub
from lpm_stream.hub.message import Received
from lpm_stream.settings import Settings
from lpm_stream.stream import open_hub
from lpm_stream_tests.hub.messages import message

COMPANIES = ["A", "B", "C", "Zürich 🚑"]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "hub"


def test_a_url_without_a_directory_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LpmStreamError, match="LPM_STREAM_HUB_URL: local: names no directory"):
        open_hub(Settings(hub_url="local:"))
    assert list(tmp_path.iterdir()) == []


def opened(directory: Path, partitions: int = 1, retention_hours: float = 1.0) -> LocalHub:
    return LocalHub(directory, partitions, retention_hours)


def everything(hub: LocalHub, partition: int = 0) -> list[Received]:
    return hub.receive(partition, 0, 1_000_000)


def by_company(hub: LocalHub) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for partition in hub.partitions():
        for one in everything(hub, partition):
            found.setdefault(one.message.company, []).append(one.message.version)
    return found


def run_in_sql(directory: Path, statement: str, values: tuple[object, ...] = ()) -> None:
    with closing(sqlite3.connect(directory / "0.db")) as connection:
        connection.execute(statement, values)
        connection.commit()


def start(module: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", f"lpm_stream_tests.hub.{module}", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_the_first_creator_decides_the_number_of_partitions(directory):
    counts = []
    barrier = threading.Barrier(8)

    def create(partitions: int) -> None:
        barrier.wait()
        with closing(opened(directory, partitions)) as hub:
            hub.send([message("A", partitions)])
            counts.append(len(hub.partitions()))

    threads = [threading.Thread(target=create, args=(partitions,)) for partitions in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(counts) == 8
    assert len(set(counts)) == 1
    with closing(opened(directory, 32)) as hub:
        assert sorted(by_company(hub)["A"]) == list(range(1, 9))
    assert [path.name for path in directory.glob("hub.json*")] == ["hub.json"]


def test_readers_and_a_writer_in_processes_of_their_own(directory):
    versions = 400
    opened(directory, 2).close()
    wanted = versions * len(COMPANIES)
    readers = [start("reader", directory, wanted) for _ in range(2)]
    writer = start("messages", directory, versions, *COMPANIES)
    assert writer.communicate()[0].split() == [str(version) for version in range(1, versions + 1)]
    expected = {company: list(range(1, versions + 1)) for company in COMPANIES}
    for reader in readers:
        assert json.loads(reader.communicate()[0]) == expected
        assert reader.returncode == 0


def test_what_was_acknowledged_survives_the_writers_death(directory):
    acknowledged = 0
    for round_ in range(6):
        writer = start("messages", directory, 1_000_000, "A")
        assert writer.stdout is not None
        for _ in range(3 + 5 * round_):
            acknowledged = int(writer.stdout.readline())
        writer.kill()
        rest = writer.stdout.read().splitlines(keepends=True)
        writer.stdout.close()
        writer.wait()
        acknowledged = max([acknowledged, *(int(line) for line in rest if line.endswith("\n"))])
        with closing(opened(directory, 2)) as hub:
            versions = by_company(hub)["A"]
        assert versions == list(range(1, len(versions) + 1))
        assert acknowledged <= len(versions) <= acknowledged + 1


def test_what_retention_has_removed_is_a_gap_not_an_empty_hub(directory):
    with closing(opened(directory, retention_hours=0.0)) as hub:
        hub.send([message("A", version) for version in range(1, 4)])
        hub.trim()
        with pytest.raises(HubGapError, match="no longer keeps messages 1 to 3"):
            hub.receive(0, 0, 10)
        with pytest.raises(HubGapError, match="no longer keeps messages 3 to 3"):
            hub.receive(0, 2, 10)
        assert hub.receive(0, 3, 10) == []


def test_sequence_numbers_are_never_used_again(directory):
    with closing(opened(directory, retention_hours=0.0)) as hub:
        hub.send([message("A", version) for version in range(1, 4)])
        hub.trim()
        assert hub.end(0) == 3
    with closing(opened(directory)) as hub:
        assert hub.end(0) == 3
        hub.send([message("A", 4)])
        [one] = hub.receive(0, 3, 10)
        assert one.sequence_number == 4


def test_retention_only_takes_from_the_beginning(directory):
    """A clock that was set back makes a message look older than those before it."""
    with closing(opened(directory)) as hub:
        hub.send([message("A", version) for version in range(1, 4)])
    run_in_sql(directory, "UPDATE messages SET enqueued_at = 0 WHERE sequence_number = 2")
    with closing(opened(directory)) as hub:
        hub.trim()
        assert [one.message.version for one in everything(hub)] == [1, 2, 3]
        run_in_sql(directory, "UPDATE messages SET enqueued_at = 0 WHERE sequence_number = 1")
        hub.trim()
        assert [one.message.version for one in hub.receive(0, 2, 10)] == [3]


def test_writers_that_live_briefly_trim_as_well(directory):
    with closing(opened(directory)) as hub:
        hub.send([message("A", 1)])
    run_in_sql(directory, "UPDATE messages SET enqueued_at = ?", (time.time() - 3601,))
    with closing(opened(directory)) as hub:
        hub.send([message("A", 2)])
        assert [one.sequence_number for one in hub.receive(0, 1, 10)] == [2]
        with pytest.raises(HubGapError):
            hub.receive(0, 0, 10)


def test_a_message_appended_while_reading_is_not_a_gap(directory, monkeypatch):
    with closing(opened(directory)) as hub, closing(opened(directory)) as writer:
        end = LocalHub._end

        def another_writes(connection: sqlite3.Connection) -> int:
            writer.send([message("A", 1)])
            return end(connection)

        monkeypatch.setattr(LocalHub, "_end", staticmethod(another_writes))
        assert len(hub.receive(0, 0, 10)) <= 1


def test_a_hub_that_was_replaced_is_noticed(directory):
    with closing(opened(directory)) as hub:
        hub.send([message("A", version) for version in range(1, 4)])
    for path in directory.iterdir():
        path.unlink()
    with closing(opened(directory)) as hub:
        hub.send([message("A", 4)])
        with pytest.raises(HubGapError, match="was replaced"):
            hub.receive(0, 3, 10)


def test_a_missing_message_in_the_middle_is_not_skipped(directory):
    with closing(opened(directory)) as hub:
        hub.send([message("A", version) for version in range(1, 6)])
        run_in_sql(directory, "DELETE FROM messages WHERE sequence_number = 3")
        assert [one.message.version for one in everything(hub)] == [1, 2]
        with pytest.raises(HubError, match="3"):
            hub.receive(0, 2, 10)


@pytest.mark.parametrize(
    "damage",
    [
        "body = x'00'",
        "properties = replace(properties, '\"rows\": 1', '\"rows\": 2')",
        "properties = 'nonsense'",
        "partition_key = 'B'",
        "checksum = 1",
    ],
)
def test_a_damaged_message_is_not_handed_out_but_those_before_it_are(directory, damage):
    with closing(opened(directory)) as hub:
        hub.send([message("A", version) for version in range(1, 6)])
        run_in_sql(directory, f"UPDATE messages SET {damage} WHERE sequence_number = 4")
        assert [one.message.version for one in everything(hub)] == [1, 2, 3]
        with pytest.raises(HubError, match="message 4 is damaged"):
            hub.receive(0, 3, 10)


def test_a_file_of_garbage_costs_its_partition_only(directory):
    with closing(opened(directory, 2)) as hub:
        hub.send([message(company, 1) for company in COMPANIES])
        before = everything(hub, 1)
    for suffix in ("", "-wal", "-shm"):
        (directory / f"0.db{suffix}").unlink(missing_ok=True)
    (directory / "0.db").write_bytes(b"garbage" * 10_000)
    with closing(opened(directory, 2)) as hub:
        with pytest.raises(HubError, match=r"0\.db.*not a database"):
            hub.receive(0, 0, 10)
        with pytest.raises(HubError, match=r"0\.db"):
            hub.end(0)
        assert everything(hub, 1) == before


@pytest.mark.parametrize("broken", [0, 1])
def test_nothing_is_sent_while_a_file_cannot_be_written(directory, broken):
    with closing(opened(directory, 2)) as hub:
        hub.send([message(company, 1) for company in COMPANIES])
        before = everything(hub, 1 - broken)
    for suffix in ("-wal", "-shm"):
        (directory / f"{broken}.db{suffix}").unlink(missing_ok=True)
    (directory / f"{broken}.db").write_bytes(b"garbage" * 10_000)
    with closing(opened(directory, 2)) as hub:
        for _ in range(2):
            with pytest.raises(HubError):
                hub.send([message(company, 2) for company in COMPANIES])
        assert everything(hub, 1 - broken) == before


@pytest.mark.parametrize(
    "text", ["", "nonsense", "[]", "{}", '{"partitions": null}', '{"partitions": 0}', "\ufffe"]
)
def test_an_unreadable_hub_says_so(directory, text):
    directory.mkdir()
    (directory / "hub.json").write_text(text, encoding="utf-16")
    with pytest.raises(HubError, match="cannot be opened"):
        opened(directory)
    (directory / "hub.json").write_text(text, encoding="utf-8")
    with pytest.raises(HubError, match="cannot be opened"):
        opened(directory)


def test_a_hub_below_a_file_says_so(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(HubError, match="Not a directory"):
        opened(tmp_path / "file" / "hub")


def test_a_full_disk_is_an_error_and_loses_nothing(directory):
    with closing(opened(directory)) as hub:
        hub.send([message("A", 1)])
        connection = hub._connections[0]
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + 2}")
        with pytest.raises(HubError, match="full"):
            hub.send([message("A", version, body=b"x" * 5_000) for version in range(2, 6)])
        assert [one.message.version for one in everything(hub)] == [1]
        connection.execute("PRAGMA max_page_count = 1000000")
        hub.send([message("A", version, body=b"x" * 5_000) for version in range(2, 6)])
        numbers = [(one.sequence_number, one.message.version) for one in everything(hub)]
        assert numbers == [(number, number) for number in range(1, 6)]


def test_a_hub_locked_by_another_program_is_an_error(directory, monkeypatch):
    monkeypatch.setattr("lpm_stream.hub.local._BUSY_SECONDS", 0.05)
    with closing(opened(directory)) as hub, closing(sqlite3.connect(directory / "0.db")) as other:
        hub.send([message("A", 1)])
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(HubError, match="locked"):
            hub.send([message("A", 2)])
        assert [one.message.version for one in everything(hub)] == [1]
        other.rollback()
        hub.send([message("A", 2)])
        assert [one.message.version for one in everything(hub)] == [1, 2]
