"""A company that is given another database, or removed, while its old one is being written."""

from collections.abc import Callable
from contextlib import closing

import pytest

from lpm_stream.change_company import change, drop_data, unfinished
from lpm_stream.control import entries, parking, progress
from lpm_stream.control.company import Company
from lpm_stream.control.registry_file import Change
from lpm_stream.delivery import drain, worker
from lpm_stream.delivery.apply import NotServedError
from lpm_stream.delivery.database import CompanyDatabase, open_database
from lpm_stream.delivery.pool import Place
from lpm_stream.delivery.worker import Worker
from lpm_stream.errors import LpmStreamError, TargetFaultError
from lpm_stream.feed.entitlement import Entitlement
from lpm_stream.onboard import Order, onboard
from lpm_stream.stream import Stream
from lpm_stream_tests.delivery.test_drain import commit, delivered, delivering, parked, wait_until
from lpm_stream_tests.example import SPEC, assert_delivered, deliver


@pytest.fixture
def forgetful(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> Stream:
    """A stream whose deliverer takes what it knows of the registry for good."""
    monkeypatch.setattr(worker, "_REGISTRY_SECONDS", 1_000.0)
    monkeypatch.setattr(parking, "_FIRST_PAUSE", 0.02)
    monkeypatch.setattr(drain, "_SAVE_SECONDS", 0.01)
    return stream


def move(stream: Stream, company: str, name: str = "A_new", **said: object) -> None:
    """Gives a company another database, and loads that."""
    before = entries.read(stream.store, company).company
    url = f"sqlite:///{stream.settings.home}/companies/{name}.db"
    wanted = Change(before, before.model_copy(update={"database": url, **said}))
    change([stream], wanted, go_on=lambda: True, tell=lambda _rows, _total: None)


def is_told_of_everything(stream: Stream, company: str) -> Callable[[], bool]:
    return lambda: (
        delivered(stream, company) == progress.read_published(stream.store, SPEC.name)[company]
        and not parked(stream)
    )


@pytest.mark.parametrize("others", [{}, {"B": "2"}], ids=["nothing between", "others between"])
def test_changes_that_went_to_the_database_before_come_to_the_new_one(forgetful, others):
    with delivering(forgetful):
        commit(forgetful, A="1", **others)
        wait_until(is_told_of_everything(forgetful, "A"))
        move(forgetful, "A")
        commit(forgetful, A="3")
        wait_until(is_told_of_everything(forgetful, "A"))
    assert_delivered(forgetful, ["A"])


def test_so_do_those_of_a_parked_company_whose_own_reader_had_opened_it(forgetful, monkeypatch):
    real = Worker._open

    def slowly(of: Worker, place: Place) -> CompanyDatabase:
        opened = real(of, place)
        if place[0] == "A" and "A_new" not in place[1]:
            move(forgetful, "A")
            commit(forgetful, A="3")
        return opened

    commit(forgetful, A="1")
    deliver(forgetful)
    known = progress.read_deliveries(forgetful.store, SPEC.name)["A"]
    state = parking.park("A", known.partition, known.sequence_number + 1, known.committed_at, "it did not answer")
    with forgetful.store.write() as connection:
        parking.write_parked(connection, SPEC.name, "A", state)
    monkeypatch.setattr(Worker, "_open", slowly)
    with delivering(forgetful):
        wait_until(lambda: progress.read_published(forgetful.store, SPEC.name)["A"] > known.version)
        wait_until(is_told_of_everything(forgetful, "A"))
    assert_delivered(forgetful, ["A"])


def test_who_was_removed_meanwhile_is_not_served_any_more(forgetful):
    commit(forgetful, A="1")
    partition = forgetful.hub.partition_of("A")
    received = forgetful.hub.receive(partition, 0, 10)
    with closing(Worker(forgetful.spec, forgetful.hub, forgetful.store, forgetful.settings, 1)) as mine:
        assert mine.is_registered("A")
        entries.set_state(forgetful.store, "A", "offboarding")
        with pytest.raises(NotServedError):
            mine.serve("A", received, 0)
        assert not mine.is_registered("A")


def test_a_company_whose_new_database_is_refused_keeps_its_own(stream):
    commit(stream, A="1", B="2")
    deliver(stream)
    before = entries.read(stream.store, "A"), entries.entitlement_of(stream.store, "A")
    with pytest.raises(TargetFaultError, match="belongs to company 'B'"):
        move(stream, "A", "B", groups=("base",))
    assert (entries.read(stream.store, "A"), entries.entitlement_of(stream.store, "A")) == before
    assert unfinished([stream]) == {}
    commit(stream, A="3")
    deliver(stream)
    assert_delivered(stream, ["A", "B"])


def test_it_is_not_made_for_one_who_saw_something_else(stream):
    before = entries.read(stream.store, "A").company
    entries.set_state(stream.store, "A", "paused")
    wanted = Change(before, before.model_copy(update={"database": f"sqlite:///{stream.settings.home}/new.db"}))
    with pytest.raises(LpmStreamError, match="by somebody else meanwhile"):
        change([stream], wanted, go_on=lambda: True, tell=lambda _rows, _total: None)
    assert not (stream.settings.home / "new.db").exists()


def test_a_database_that_knows_of_a_time_that_the_registry_has_lost_can_be_moved_to(stream):
    url = f"sqlite:///{stream.settings.home}/companies/A_new.db"
    newer = entries.new_generation() + 1_000_000
    open_database(stream.spec, "A", url, Entitlement(("all",), newer)).close()
    commit(stream, A="1")
    move(stream, "A")
    assert entries.entitlement_of(stream.store, "A").generation > newer
    commit(stream, A="2")
    deliver(stream)
    assert_delivered(stream, ["A"])


def test_one_that_comes_back_is_not_taken_for_what_it_was(forgetful, monkeypatch, caplog):
    monkeypatch.setattr(drain, "_FORGET_SECONDS", 0.0)
    monkeypatch.setattr(worker, "_REGISTRY_SECONDS", 0.0)
    looked: list[object] = []
    real = drain._Drain._forget_if_due

    def look(of: drain._Drain) -> None:
        real(of)
        looked.append(of)

    monkeypatch.setattr(drain._Drain, "_forget_if_due", look)
    order = Order(
        Company(id="A", groups=("all",)),
        [forgetful],
        lambda _stream, _company: "",
        lambda _step, _what: None,
        lambda: True,
        lambda _rows, _total: None,
    )
    with delivering(forgetful):
        for key in ("1", "2", "3"):
            commit(forgetful, A=key)
        wait_until(is_told_of_everything(forgetful, "A"))
        entries.set_state(forgetful.store, "A", "offboarding")
        before = len(looked)
        wait_until(lambda: len(looked) > before + 1)
        drop_data([forgetful], "A")
        onboard(order)
        commit(forgetful, A="4")
        wait_until(is_told_of_everything(forgetful, "A"))
    assert_delivered(forgetful, ["A"])
    assert "is parked" not in caplog.text
