import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import adbc_driver_sqlite.dbapi as adbc
import pytest
import sqlalchemy as sa

from lpm_stream.control import leases, parking, progress, tables
from lpm_stream.control.registry import database_urls, register
from lpm_stream.delivery import drain as deliver_drain
from lpm_stream.delivery import lanes, sqlite, worker
from lpm_stream.delivery.backfill import backfill
from lpm_stream.delivery.drain import Delivery
from lpm_stream.delivery.sqlite import SqliteDatabase, SqliteTransaction
from lpm_stream.delivery.worker import Worker
from lpm_stream.errors import HubError, LeaseLostError, LpmStreamError, TargetFaultError
from lpm_stream.hub.local import LocalHub
from lpm_stream.hub.message import Received
from lpm_stream.stream import Stream
from lpm_stream_tests.delivery.databases import carrying, changes, picky
from lpm_stream_tests.example import SPEC, append, assert_delivered, deliver, orders, publish, stored, undelivered

OTHER = "deliver@elsewhere:1:1"


def path_of(stream: Stream, company: str) -> Path:
    return Path(str(sa.make_url(database_urls(stream.store, stream.settings)[company]).database))


def commit(stream: Stream, **keys: str) -> None:
    """Commits and publishes rows: company=keys."""
    for company, these in keys.items():
        append(stream.table, orders(these.split(), company))
    publish(stream)


def parked(stream: Stream) -> dict[str, parking.Parked]:
    return parking.read_parked(stream.store, SPEC.name)


def load(stream: Stream, company: str) -> None:
    backfill(stream, company, rebuild=False, go_on=lambda: True, tell=lambda _rows, _total: None)


def try_again_now(stream: Stream) -> Delivery:
    """Delivers until the parked companies are at it, too."""
    with stream.store.write() as connection:
        past = datetime.now(UTC) - timedelta(seconds=1)
        connection.execute(tables.parked.update().values(next_try_at=past))
    done: Delivery = deliver(stream)
    return done


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Locks a database for writing, as a backup or a customer's own program would."""
    connection = adbc.connect(str(path), autocommit=True)
    cursor = connection.cursor()
    cursor.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        cursor.execute("ROLLBACK")
        cursor.close()
        connection.close()


@contextmanager
def delivering(stream: Stream) -> Iterator[None]:
    """A deliver drain in a thread of its own."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            stream.deliverer().drain(go_on=lambda: not stop.is_set())
        except BaseException as error:  # noqa: BLE001 - the test says what it thinks of it
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert failures == []


def wait_until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def delivered(stream: Stream, company: str) -> int:
    """The version that a company's database is known to have."""
    found = progress.read_deliveries(stream.store, SPEC.name).get(company)
    return -1 if found is None else found.version


def in_partition(stream: Stream, partition: int) -> str:
    """A company of that partition, registered."""
    assert isinstance(stream.hub, LocalHub)
    names = (f"company {number}" for number in range(1_000))
    company = next(name for name in names if stream.hub.partition_of(name) == partition)
    register(stream.store, company)
    return company


@pytest.fixture
def impatient(monkeypatch):
    """Databases that are locked say so at once."""
    monkeypatch.setattr(sqlite, "_PRAGMAS", ("PRAGMA busy_timeout = 20", *sqlite._PRAGMAS[1:]))


@pytest.mark.usefixtures("impatient")
def test_a_locked_database_delays_its_company_alone(stream):
    commit(stream, A="1", B="2")
    deliver(stream)
    with locked(path_of(stream, "A")):
        commit(stream, A="3", B="4")
        done = deliver(stream)
        assert done.companies.keys() == {"B"}
        [state] = parked(stream).values()
        assert (state.company, state.attempts) == ("A", 1)
        assert "locked" in state.reason
        commit(stream, A="5", B="6")
        deliver(stream)
        assert undelivered(stream) == 0
        try_again_now(stream)
        assert parked(stream)["A"].attempts == 2
        assert parked(stream)["A"].sequence_number == state.sequence_number
    assert_delivered(stream, ["B"])
    assert stored(stream, "A").keys() == {"1"}
    done = try_again_now(stream)
    assert done.companies["A"].changes == 2
    assert parked(stream) == {}
    assert_delivered(stream, ["A", "B"])


@pytest.mark.usefixtures("impatient")
def test_a_company_catches_up_by_itself(stream, monkeypatch):
    monkeypatch.setattr(parking, "_FIRST_PAUSE", 0.02)
    monkeypatch.setattr(parking, "_LONGEST_PAUSE", 0.05)
    monkeypatch.setattr(deliver_drain, "_SAVE_SECONDS", 0.01)
    commit(stream, A="1", B="2")
    with delivering(stream):
        wait_until(lambda: delivered(stream, "A") == 1)
        with locked(path_of(stream, "A")):
            commit(stream, A="3", B="4")
            wait_until(lambda: "A" in parked(stream))
            commit(stream, A="5", B="6")
            wait_until(lambda: delivered(stream, "B") == 6)
            assert delivered(stream, "A") == 1
        wait_until(lambda: delivered(stream, "A") == 5)
        wait_until(lambda: parked(stream) == {})
        commit(stream, A="7", B="8")
        wait_until(lambda: delivered(stream, "A") == 7)
    assert_delivered(stream, ["A", "B"])


@pytest.mark.parametrize("messages", [1, 2, 500])
@pytest.mark.parametrize("joining_bytes", [0, 10**6])
def test_a_company_far_behind_catches_up_piece_by_piece(stream, monkeypatch, messages, joining_bytes):
    monkeypatch.setattr(worker, "_RECOVERY_MESSAGES", messages)
    monkeypatch.setattr(deliver_drain, "_JOINING_BYTES", joining_bytes)
    monkeypatch.setattr(deliver_drain, "_READ_MESSAGES", 1)
    for number in range(0, 12, 2):
        commit(stream, A=f"{number}", B=f"{number + 1}")
    state = parking.park("A", stream.hub.partition_of("A"), 1, datetime.now(UTC), "by hand")
    with stream.store.write() as connection:
        parking.write_parked(connection, SPEC.name, "A", state)
    done = try_again_now(stream)
    assert done.companies["A"].changes == 6
    assert parked(stream) == {}
    assert_delivered(stream, ["A", "B"])


def test_a_database_restored_from_an_older_copy_is_delivered_again(stream):
    commit(stream, A="1 2")
    deliver(stream)
    copy = path_of(stream, "A").with_suffix(".copy")
    shutil.copy(path_of(stream, "A"), copy)
    commit(stream, A="3")
    deliver(stream)
    copy.replace(path_of(stream, "A"))
    commit(stream, A="4", B="5")
    deliver(stream)
    assert "reading again from behind message 1" in parked(stream)["A"].reason
    assert_delivered(stream, ["B"])
    try_again_now(stream)
    assert_delivered(stream, ["A", "B"])
    assert parked(stream) == {}


@pytest.mark.parametrize("messages", [1, 500])
def test_what_only_the_table_has_is_known_after_one_reading(stream, monkeypatch, messages):
    """Also where that takes several tasks, in drains of their own, past the messages of others."""
    monkeypatch.setattr(worker, "_RECOVERY_MESSAGES", messages)
    other = in_partition(stream, stream.hub.partition_of("A"))
    commit(stream, **{other: "1"})
    commit(stream, **{other: "2"})
    load(stream, "A")
    path_of(stream, "A").unlink()
    commit(stream, A="3")
    deliver(stream)
    assert "reading again from behind message 0" in parked(stream)["A"].reason
    try_again_now(stream)
    assert parked(stream)["A"].kind == "gap"
    assert "lpm-stream resync --company A" in parked(stream)["A"].reason


@pytest.fixture
def strict(stream: Stream) -> Stream:
    """The stream with little patience for rows that break the contract."""
    return replace(stream, spec=SPEC.model_copy(update={"quarantine_rows_per_minute": 3}))


def withhold(stream: Stream, company: str) -> None:
    """Commits a version of which nothing is published for the company."""
    append(stream.table, orders([f"bad{number}" for number in range(9)], company, note="n" * 2_000))
    publish(stream)


def test_messages_that_are_covered_do_not_hide_that_others_are_lacking(strict, monkeypatch):
    monkeypatch.setattr(worker, "_RECOVERY_MESSAGES", 1)
    commit(strict, A="1")
    load(strict, "A")  # before anything was delivered, so the database does not know that message's number
    commit(strict, **{in_partition(strict, strict.hub.partition_of("A")): "2"})
    deliver(strict)
    withhold(strict, "A")
    commit(strict, A="3")
    deliver(strict)
    for _ in range(2):
        try_again_now(strict)
    assert parked(strict)["A"].kind == "gap"


def test_a_passing_fault_does_not_begin_the_search_anew(stream, monkeypatch):
    monkeypatch.setattr(worker, "_RECOVERY_MESSAGES", 1)
    other = in_partition(stream, stream.hub.partition_of("A"))
    for number in range(4):
        commit(stream, **{other: f"{number}"})
    load(stream, "A")
    path_of(stream, "A").unlink()
    commit(stream, A="9")
    deliver(stream)
    tasks = 0
    recover = Worker.recover

    def now_and_then(self: Worker, *arguments: Any) -> Any:
        nonlocal tasks
        tasks += 1
        if tasks % 3 == 0:
            raise TargetFaultError("locked for a moment")
        return recover(self, *arguments)

    monkeypatch.setattr(Worker, "recover", now_and_then)
    for _ in range(4):
        try_again_now(stream)
    assert parked(stream)["A"].kind == "gap"


def test_a_database_that_is_set_back_once_more_is_read_once_more(stream):
    path, copies = path_of(stream, "A"), []
    for number in range(4):
        commit(stream, A=f"{number}")
        deliver(stream)
        copies.append(Path(shutil.copy(path, path.with_suffix(f".{number}"))))
    commit(stream, A="9")
    copies[2].replace(path)
    deliver(stream)
    copies[0].replace(path)
    try_again_now(stream)
    assert parked(stream)["A"].kind == "lacking"
    try_again_now(stream)
    assert_delivered(stream, ["A"])


def test_what_a_failed_batch_had_in_hand_does_not_count_as_delivered(strict):
    commit(strict, A="1")
    withhold(strict, "A")
    commit(strict, A="2")
    deliver(strict)
    assert "reading again from behind message 0" in parked(strict)["A"].reason
    assert stored(strict, "A") == {}
    assert delivered(strict, "A") == -1


def test_a_version_that_is_published_again_does_not_hide_what_the_hub_has_lost(stream):
    commit(stream, A="1")
    cursor = progress.read_cursor(stream.store, SPEC.name)
    assert cursor is not None
    commit(stream, A="2")
    with stream.hub._connection(stream.hub.partition_of("A")) as connection, connection:
        connection.execute("DELETE FROM messages")
    with stream.store.write() as connection:
        progress.write_cursor(connection, SPEC.name, cursor)
    publish(stream)
    for _ in range(2):
        try_again_now(stream)
    assert stored(stream, "A") == {}
    assert parked(stream)["A"].kind == "gap"


def test_what_was_applied_before_a_crash_is_known_after_it(stream, monkeypatch):
    """Else a database that is deleted later would start in the middle."""
    commit(stream, A="1")
    with monkeypatch.context() as patch:
        patch.setattr(progress, "write_deliveries", _fail)
        with pytest.raises(LpmStreamError):
            deliver(stream)
    deliver(stream)
    assert delivered(stream, "A") == 1
    path_of(stream, "A").unlink()
    commit(stream, A="2")
    deliver(stream)
    try_again_now(stream)
    assert_delivered(stream, ["A"])


def test_a_deleted_database_is_delivered_again(stream):
    commit(stream, A="1 2", B="3")
    deliver(stream)
    path_of(stream, "A").unlink()
    commit(stream, A="4")
    deliver(stream)
    assert parked(stream).keys() == {"A"}
    try_again_now(stream)
    assert_delivered(stream, ["A", "B"])


def test_a_database_deleted_while_it_is_open_is_delivered_again(stream, monkeypatch):
    monkeypatch.setattr(parking, "_FIRST_PAUSE", 0.02)
    monkeypatch.setattr(deliver_drain, "_SAVE_SECONDS", 0.01)
    commit(stream, A="1")
    with delivering(stream):
        wait_until(lambda: delivered(stream, "A") == 1)
        path_of(stream, "A").unlink()
        commit(stream, A="2")
        wait_until(lambda: delivered(stream, "A") == 2 and parked(stream) == {})
    assert_delivered(stream, ["A"])


def test_what_the_hub_no_longer_keeps_is_not_skipped(stream):
    commit(stream, A="1", B="2")
    deliver(stream)
    path_of(stream, "A").unlink()
    stream.hub._retention_seconds = 0
    stream.hub.trim()
    stream.hub._retention_seconds = 3600
    commit(stream, A="3", B="4")
    deliver(stream)
    for _ in range(2):
        try_again_now(stream)
        assert "no longer keeps messages 1 to 1" in parked(stream)["A"].reason
    assert stored(stream, "A") == {}
    assert_delivered(stream, ["B"])


def test_a_slow_database_delays_its_company_alone(stream, monkeypatch):
    monkeypatch.setattr(deliver_drain, "_SLOW_SECONDS", 0.05)
    monkeypatch.setattr(deliver_drain, "_SAVE_SECONDS", 0.01)
    monkeypatch.setattr(parking, "_FIRST_PAUSE", 0.02)
    monkeypatch.setattr(sqlite, "_PRAGMAS", ("PRAGMA busy_timeout = 60000", *sqlite._PRAGMAS[1:]))
    commit(stream, A="1", B="2")
    with delivering(stream):
        wait_until(lambda: delivered(stream, "A") == 1)
        with locked(path_of(stream, "A")):
            commit(stream, A="3", B="4")
            wait_until(lambda: delivered(stream, "B") == 4)
            wait_until(lambda: "has not answered" in parked(stream)["A"].reason if parked(stream) else False)
            commit(stream, A="5", B="6")
            wait_until(lambda: delivered(stream, "B") == 6)
        wait_until(lambda: delivered(stream, "A") == 5 and parked(stream) == {})
    assert_delivered(stream, ["A", "B"])


def test_slow_databases_do_not_take_the_slots_of_others(stream, monkeypatch):
    monkeypatch.setattr(deliver_drain, "_SLOW_SECONDS", 0.05)
    monkeypatch.setattr(deliver_drain, "_SAVE_SECONDS", 0.01)
    monkeypatch.setattr(parking, "_FIRST_PAUSE", 0.02)
    monkeypatch.setattr(sqlite, "_PRAGMAS", ("PRAGMA busy_timeout = 60000", *sqlite._PRAGMAS[1:]))
    slow = [f"slow {number}" for number in range(stream.settings.slots)]
    for company in slow:
        register(stream.store, company)
        commit(stream, **{company: company.replace(" ", "")})
    deliver(stream)
    with ExitStack() as stack:
        for company in slow:
            stack.enter_context(locked(path_of(stream, company)))
            append(stream.table, orders([f"more of {company}"], company))
        publish(stream)
        with delivering(stream):
            commit(stream, B="2")
            wait_until(lambda: delivered(stream, "B") > 0)
            stack.close()
            wait_until(lambda: parked(stream) == {} and undelivered(stream) == 0)
    assert_delivered(stream, ["B", *slow])


def test_slow_databases_that_together_fill_the_memory_do_not_stop_the_reading(stream, monkeypatch):
    monkeypatch.setattr(deliver_drain, "_SLOW_SECONDS", 600)
    monkeypatch.setattr(deliver_drain, "_TAKES_LONG_SECONDS", 0.05)
    monkeypatch.setattr(deliver_drain, "_SAVE_SECONDS", 0.01)
    monkeypatch.setattr(parking, "_FIRST_PAUSE", 0.02)
    monkeypatch.setattr(sqlite, "_PRAGMAS", ("PRAGMA busy_timeout = 600000", *sqlite._PRAGMAS[1:]))
    slow = ["slow 1", "slow 2", "slow 3"]
    for company in slow:
        register(stream.store, company)
        commit(stream, **{company: f"{company[-1]}0"})
    deliver(stream)
    size = max(len(one.message.body) for part in range(4) for one in stream.hub.receive(part, 0, 9))
    monkeypatch.setattr(deliver_drain, "_WAITING_BYTES", 2.5 * size)
    with ExitStack() as stack:
        for company in slow:
            stack.enter_context(locked(path_of(stream, company)))
        begun = served(monkeypatch)
        with delivering(stream):
            for number in (1, 2):
                for company in slow:
                    commit(stream, **{company: f"{company[-1]}{number}"})
                wait_until(lambda: len(begun) == len(slow))  # the first is in hand while the second waits
            commit(stream, B="2")
            wait_until(lambda: delivered(stream, "B") > 0)
            assert {one.reason for one in parked(stream).values()} == {parking.SLOW}
            stack.close()
            wait_until(lambda: parked(stream) == {} and undelivered(stream) == 0)
    assert_delivered(stream, ["B", *slow])


def test_databases_that_do_not_answer_lend_their_slots_before_they_are_parked(stream, monkeypatch):
    monkeypatch.setattr(deliver_drain, "_SLOW_SECONDS", 600)
    monkeypatch.setattr(deliver_drain, "_SAVE_SECONDS", 0.01)
    monkeypatch.setattr(sqlite, "_PRAGMAS", ("PRAGMA busy_timeout = 600000", *sqlite._PRAGMAS[1:]))
    slow = [f"slow {number}" for number in range(3 * stream.settings.slots)]
    for company in slow:
        register(stream.store, company)
        append(stream.table, orders([company], company))
    publish(stream)
    deliver(stream)
    with ExitStack() as stack:
        for company in slow:
            stack.enter_context(locked(path_of(stream, company)))
            append(stream.table, orders([f"more of {company}"], company))
        publish(stream)
        with delivering(stream):
            commit(stream, B="2")
            wait_until(lambda: delivered(stream, "B") > 0)
            assert parked(stream) == {}
            stack.close()
            wait_until(lambda: undelivered(stream) == 0)
    assert_delivered(stream, ["B", *slow])


def test_it_says_that_databases_have_more_than_the_control_store_knew(stream, caplog):
    commit(stream, A="1", B="2")
    deliver(stream)
    assert "more than the control store knew" not in caplog.text
    with stream.store.write() as connection:
        connection.execute(tables.deliveries.delete())
        connection.execute(tables.checkpoints.delete())
    deliver(stream)
    assert "the databases of 2 companies, such as 'A', had more than the control store knew" in caplog.text


def test_it_says_that_rows_went_to_quarantine_and_not_what_is_in_them(stream, caplog):
    commit(stream, A="1")
    deliver(stream)
    with closing(SqliteDatabase(SPEC, "A", str(path_of(stream, "A")))) as database:
        picky(database, "NEW.id = 'bad key'")
    append(stream.table, orders(["2", "bad key"], "A"))
    publish(stream)
    deliver(stream)
    assert "company 'A': its database refuses rows; 1 more are in quarantine" in caplog.text
    assert "bad key" not in caplog.text


def test_a_second_deliverer_stands_by(stream):
    commit(stream, A="1")
    lease = leases.acquire(stream.store, f"deliver:{SPEC.name}", OTHER)
    assert lease is not None
    assert deliver(stream).standby
    assert not path_of(stream, "A").exists()
    leases.release(stream.store, lease)
    assert not deliver(stream).standby
    assert_delivered(stream, ["A"])
    assert leases.holders(stream.store) == {}


def test_a_deliverer_that_lost_its_lease_saves_nothing(stream, monkeypatch):
    commit(stream, A="1")
    serve = Worker.serve

    def steal(self: Worker, *arguments: Any) -> Any:
        outcome = serve(self, *arguments)
        with stream.store.write() as connection:
            connection.execute(tables.leases.update().values(expires_at=datetime(2000, 1, 1, tzinfo=UTC)))
        assert leases.acquire(stream.store, f"deliver:{SPEC.name}", OTHER) is not None
        return outcome

    monkeypatch.setattr(Worker, "serve", steal)
    with pytest.raises(LeaseLostError):
        deliver(stream)
    assert undelivered(stream) == 1
    assert delivered(stream, "A") == -1
    assert leases.holders(stream.store) == {f"deliver:{SPEC.name}": OTHER}


def test_a_database_that_another_installation_writes_to_stops_nobody_else(stream):
    commit(stream, A="1", B="2")
    deliver(stream)
    database = SqliteDatabase(SPEC, "A", str(path_of(stream, "A")))
    with database.transaction() as transaction:
        known = transaction.watermark()
        transaction.store(replace(known, fence=known.fence + 10**12))
    database.close()
    commit(stream, A="3", B="4")
    deliver(stream)
    assert "another worker" in parked(stream)["A"].reason
    assert_delivered(stream, ["B"])


def test_a_partition_that_cannot_be_read_delays_its_companies_alone(stream):
    first, second = in_partition(stream, 0), in_partition(stream, 1)
    commit(stream, **{first: "1", second: "2"})
    file = stream.settings.home / "hub" / "0.db"
    stream.hub.close()
    good = file.read_bytes()
    file.write_bytes(b"garbage" * 1_000)
    done = deliver(stream)
    [problem] = done.problems
    assert "0.db" in problem
    assert "not a database" in problem
    assert_delivered(stream, [second])
    assert not path_of(stream, first).exists()
    stream.hub.close()
    file.write_bytes(good)
    assert deliver(stream).problems == []
    assert_delivered(stream, [first, second])


def test_a_damaged_message_parks_its_company_alone(stream):
    for key in "1234":
        commit(stream, A=key)
    commit(stream, **{in_partition(stream, stream.hub.partition_of("A")): "5"})
    partition = stream.hub.partition_of("A")
    with stream.hub._connection(partition) as connection, connection:
        connection.execute("UPDATE messages SET body = x'00' WHERE sequence_number = 3")
    done = deliver(stream)
    assert len(done.problems) == 1
    assert "message 3 is damaged" in done.problems[0]
    assert stored(stream, "A").keys() == {"1", "2"}
    assert undelivered(stream) == 0
    for _ in range(3):
        try_again_now(stream)
    assert parked(stream)["A"].kind == "gap"
    assert "lpm-stream resync --company A" in parked(stream)["A"].reason
    assert stored(stream, "A").keys() == {"1", "2"}


def test_a_lost_end_of_a_company_is_noticed_without_a_later_message(stream):
    commit(stream, A="1", B="2")
    deliver(stream)
    commit(stream, A="3", B="4")
    partition = stream.hub.partition_of("A")
    with stream.hub._connection(partition) as connection, connection:
        connection.execute("DELETE FROM messages")
        connection.execute("UPDATE sqlite_sequence SET seq = 1")
    deliver(stream)
    assert parked(stream)["A"].kind == "gap"
    assert "lost its changes up to version 3" in parked(stream)["A"].reason
    assert_delivered(stream, ["B"])


def test_a_hub_file_that_was_replaced_costs_nothing_that_was_delivered(stream):
    commit(stream, A="1")
    commit(stream, A="2")
    deliver(stream)
    stream.hub.close()
    shutil.rmtree(stream.settings.home / "hub")
    stream.hub._directory.mkdir()
    commit(stream, A="3")
    [problem] = deliver(stream).problems
    assert "was replaced" in problem
    deliver(stream)
    assert parked(stream) == {}
    assert_delivered(stream, ["A"])


def test_a_replaced_hub_file_that_has_outgrown_the_checkpoint_is_noticed(stream):
    commit(stream, A="1")
    deliver(stream)
    stream.hub.close()
    shutil.rmtree(stream.settings.home / "hub")
    stream.hub._directory.mkdir()
    commit(stream, A="2")
    commit(stream, A="3")
    deliver(stream)
    for _ in range(2):
        try_again_now(stream)
    assert parked(stream)["A"].kind == "gap"
    assert stored(stream, "A").keys() == {"1"}


@pytest.mark.parametrize("wrong", [{"body": b"garbage"}, {"content_type": "text/csv"}, {"rows": 7}], ids=str)
def test_a_message_that_cannot_be_decoded_delays_its_company_alone(stream, wrong):
    stream.hub.send([carrying(1, changes("insert", "1"), **wrong)])
    commit(stream, B="2")
    deliver(stream)
    assert parked(stream).keys() == {"A"}
    assert_delivered(stream, ["B"])


def test_messages_of_a_company_that_is_not_registered_any_more_are_passed_over(stream):
    commit(stream, A="1", B="2")
    with stream.store.write() as connection:
        connection.execute(tables.companies.delete().where(tables.companies.c.company == "A"))
    deliver(stream)
    assert undelivered(stream) == 0
    register(stream.store, "A")
    commit(stream, A="3")
    deliver(stream)
    assert stored(stream, "A") == {}
    try_again_now(stream)
    assert_delivered(stream, ["A", "B"])


def test_messages_of_another_feed_are_passed_over(stream):
    stream.hub.send([carrying(1, changes("insert", "9"), feed="other")])
    commit(stream, A="1")
    deliver(stream)
    assert undelivered(stream) == 0
    assert_delivered(stream, ["A"])


@pytest.mark.parametrize("url", ["nonsense", "sqlite://", "sqlite:////dev/null/x.db", "oracle://host/x"])
def test_a_company_whose_database_cannot_be_is_parked_alone(stream, url):
    register(stream.store, "C", url)
    commit(stream, A="1", C="2")
    deliver(stream)
    assert parked(stream).keys() == {"C"}
    assert_delivered(stream, ["A"])


def test_a_defect_met_with_one_company_delays_that_company_alone(stream, monkeypatch, caplog):
    merge = SqliteTransaction.merge

    def fail_for_a(self: SqliteTransaction, rows: Any) -> None:
        if rows["customer"][0] == "A":
            raise KeyError("a secret value")
        merge(self, rows)

    monkeypatch.setattr(SqliteTransaction, "merge", fail_for_a)
    commit(stream, A="1", B="2")
    deliver(stream)
    assert parked(stream)["A"].reason == "unexpected KeyError, a defect; the log says where"
    assert "fail_for_a" in caplog.text
    assert "secret" not in caplog.text.replace('"a secret value"', "")
    assert_delivered(stream, ["B"])
    monkeypatch.undo()
    try_again_now(stream)
    assert_delivered(stream, ["A"])


def test_a_control_store_that_fails_loses_nothing(stream, monkeypatch):
    commit(stream, A="1")
    with monkeypatch.context() as patch:
        patch.setattr(progress, "write_checkpoints", _fail)
        with pytest.raises(LpmStreamError, match="no space"):
            deliver(stream)
    assert undelivered(stream) == 1
    assert deliver(stream).changes == 0
    assert undelivered(stream) == 0
    assert_delivered(stream, ["A"])


def _fail(*_: Any) -> None:
    raise LpmStreamError("no space")


def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Companies and number of messages, in the order in which they are served."""
    order: list[tuple[str, int]] = []
    serve = Worker.serve

    def note(self: Worker, company: str, received: Sequence[Received], *rest: Any) -> Any:
        order.append((company, len(received)))
        return serve(self, company, received, *rest)

    monkeypatch.setattr(Worker, "serve", note)
    return order


def test_a_company_with_much_to_do_lets_others_have_their_turn(stream, monkeypatch):
    monkeypatch.setattr(lanes, "BATCH_ROWS", 1)
    busy, quiet = in_partition(stream, 0), in_partition(stream, 1)
    for number in range(6):
        append(stream.table, orders([str(number)], busy))
    commit(stream, **{quiet: "9"})
    order = served(monkeypatch)
    single = Stream(stream.spec, stream.settings.model_copy(update={"slots": 1}), stream.store, stream.hub)
    deliver(single)
    assert order == [(busy, 1), (quiet, 1), *[(busy, 1)] * 5]
    assert_delivered(stream, [busy, quiet])


@pytest.mark.parametrize(
    ("slots", "stuck_slots"),
    [(2, 1_000), pytest.param(4, -2, id="two of four slots are lent to databases that keep them waiting")],
)
def test_companies_with_much_to_do_have_no_more_than_half_of_the_slots_first(
    stream, monkeypatch, slots, stuck_slots
):
    monkeypatch.setattr(lanes, "BATCH_ROWS", 2)
    monkeypatch.setattr(deliver_drain, "_STUCK_SLOTS", stuck_slots)
    *busy, quiet = (in_partition(stream, partition) for partition in range(4))
    for number in range(10):
        commit(stream, **{company: chr(ord("A") + 10 * index + number) for index, company in enumerate(busy)})
    commit(stream, **{quiet: "q"})
    order = served(monkeypatch)
    few = Stream(stream.spec, stream.settings.model_copy(update={"slots": slots}), stream.store, stream.hub)
    deliver(few)
    assert len(order) == 16
    assert order.index((quiet, 1)) < 8
    assert_delivered(stream, [*busy, quiet])


def test_a_partition_with_much_in_it_lets_others_have_their_turn(stream, monkeypatch):
    monkeypatch.setattr(deliver_drain, "_READ_MESSAGES", 1)
    monkeypatch.setattr(deliver_drain, "_WAITING_BYTES", 0)
    companies = [in_partition(stream, partition) for partition in range(4)]
    for number in range(10):
        append(stream.table, orders([str(number)], companies[0]))
    commit(stream, **{company: f"k{index}" for index, company in enumerate(companies)})
    read = []
    receive = LocalHub.receive

    def note(self: LocalHub, partition: int, after: int, most: int) -> Any:
        read.append(partition)
        return receive(self, partition, after, most)

    monkeypatch.setattr(LocalHub, "receive", note)
    deliver(stream)
    assert read[:8] == [0, 1, 2, 3] * 2
    assert_delivered(stream, companies)


def test_a_drain_ends_when_it_is_told_to(stream):
    commit(stream, A="1")
    assert stream.deliverer().drain(go_on=lambda: False).changes == 0
    assert undelivered(stream) == 1
    answers = iter([True, True, False])
    stream.deliverer().drain(go_on=lambda: next(answers))
    assert_delivered(stream, ["A"])


def test_a_hub_that_takes_its_time_is_not_asked_for_every_partition_before_the_end(stream, monkeypatch):
    monkeypatch.setattr(deliver_drain, "_ROUND_SECONDS", 0.0)
    asked = []

    def receive(_: LocalHub, partition: int, after: int, most: int) -> Any:
        asked.append((partition, after, most))
        raise HubError("it does not answer")

    monkeypatch.setattr(LocalHub, "receive", receive)
    stream.deliverer().drain(go_on=lambda: not asked)
    assert len(asked) == 1
    stream.deliverer().drain(go_on=lambda: True, until_caught_up=True)
    assert {partition for partition, _, _ in asked} == {0, 1, 2, 3}


def test_reading_in_short_rounds_reaches_the_end_of_every_partition(stream, monkeypatch):
    monkeypatch.setattr(deliver_drain, "_ROUND_SECONDS", 0.0)
    companies = [in_partition(stream, partition) for partition in range(4)]
    commit(stream, **{company: f"k{index}" for index, company in enumerate(companies)})
    deliver(stream)
    assert_delivered(stream, companies)


def test_what_was_done_is_told(stream):
    assert deliver(stream) == Delivery()
    commit(stream, A="1", B="2")
    commit(stream, A="3")
    done = deliver(stream)
    assert (done.changes, done.refused, done.problems, done.standby) == (3, 0, [], False)
    assert done.versions == {"A": 3, "B": 2}
    assert done.companies["A"].longest < 60
    assert deliver(stream) == Delivery()


def test_a_drain_leaves_no_threads_and_no_open_files_behind(stream):
    commit(stream, A="1", B="2")
    deliver(stream)
    wait_until(lambda: not any(thread.name.startswith("deliver_") for thread in threading.enumerate()))
    assert sorted(path.name for path in path_of(stream, "A").parent.iterdir()) == ["A.db", "B.db"]


def test_a_company_with_traffic_is_tried_when_somebody_asks(stream, monkeypatch):
    monkeypatch.setattr(parking, "_FIRST_PAUSE", 60.0)
    monkeypatch.setattr(deliver_drain, "_SAVE_SECONDS", 0.05)
    commit(stream, A="1")
    deliver(stream)
    good = path_of(stream, "A").read_bytes()
    path_of(stream, "A").write_bytes(b"garbage" * 1_000)
    commit(stream, A="2")
    with delivering(stream):
        wait_until(lambda: parked(stream).keys() == {"A"})
        path_of(stream, "A").write_bytes(good)
        commit(stream, A="3")
        parking.try_now(stream.store, SPEC.name, "A")
        for number in range(4, 9):
            commit(stream, A=str(number))
        wait_until(lambda: parked(stream) == {})
    deliver(stream)
    assert_delivered(stream, ["A"])
