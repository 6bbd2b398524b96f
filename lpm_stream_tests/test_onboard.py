"""Onboarding: whole, stopped half-way, done twice, and refused."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lpm_stream import onboard as onboarding
from lpm_stream.change_company import drop_data, unfinished
from lpm_stream.control import backfills, entries, leases, progress, registry
from lpm_stream.control.company import Company
from lpm_stream.control.store import ControlStore
from lpm_stream.control.tables import companies
from lpm_stream.errors import LpmStreamError
from lpm_stream.feed.entitlement import Entitlement
from lpm_stream.onboard import OnboardingError, Order, failed, onboard, plan
from lpm_stream.stream import Stream
from lpm_stream_tests.example import append, assert_delivered, deliver, orders, publish


@pytest.fixture
def said() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def order(stream: Stream, said: list[tuple[str, str]]) -> Order:
    """The order to onboard company NEW, which has three rows from before."""
    append(stream.table, orders(["1", "2", "3", "4"], ["NEW", "NEW", "A", "NEW"]))
    publish(stream)
    deliver(stream)
    return Order(
        Company(id="NEW"),
        [stream],
        lambda _stream, company: f"partition {company}",
        lambda step, what: said.append((step, what)),
        lambda: True,
        lambda _rows, _total: None,
    )


def path_of(stream: Stream, company: str) -> Path:
    return stream.settings.home / "companies" / f"{company}.db"


def test_a_company_is_onboarded_and_streams(stream, order, said):
    results = onboard(order)
    assert failed(results) == {}
    assert {result.name for result in results} >= {"complete_against_source", "fresh", "not_parked"}
    assert [step for step, _ in said] == ["database", "registry", "partition", "history", "stream"]
    assert "3 rows loaded" in dict(said)["history"]
    append(stream.table, orders(["5"], "NEW"))
    publish(stream)
    deliver(stream)
    assert_delivered(stream, ["NEW", "A"])
    assert progress.read_incomplete(stream.store, "orders") == {}
    assert entries.read(stream.store, "NEW").onboarded_at is not None


def test_a_plan_touches_nothing(stream, order):
    assert [step for step, _ in plan(order)] == ["database", "registry", "partition", "history", "stream"]
    assert registry.registered(stream.store) == ["A", "B"]
    assert not path_of(stream, "NEW").exists()


def test_before_there_is_a_table_there_is_no_history(stream, order, said, monkeypatch):
    monkeypatch.setattr(Stream, "table", property(lambda self: f"{self.settings.home}/nowhere"))
    assert onboard(order) == []
    assert "does not exist yet" in dict(said)["history"]


@pytest.mark.parametrize("step", ["partition", "history", "stream"])
def test_what_has_failed_goes_on_from_there(stream, order, monkeypatch, step):
    broken = list(onboarding._STEPS)
    [index] = [index for index, one in enumerate(broken) if one.name == step]

    def fail(*_: object) -> str:
        raise LpmStreamError("out of order")

    broken[index] = replace(broken[index], run=fail)
    with monkeypatch.context() as patch:
        patch.setattr(onboarding, "_STEPS", broken)
        with pytest.raises(OnboardingError, match=rf"'NEW'.*step '{step}': out of order.*do the same again"):
            onboard(order)
    assert entries.read(stream.store, "NEW").onboarded_at is None
    append(stream.table, orders(["5"], "NEW"))
    publish(stream)
    deliver(stream)
    assert failed(onboard(order)) == {}
    assert_delivered(stream, ["NEW"])


def test_history_that_was_loaded_is_not_loaded_again(stream, order, said, monkeypatch):
    broken = replace(order, add_partition=lambda *_: "")
    with monkeypatch.context() as patch:
        patch.setattr(entries, "finish_onboarding", lambda *_: (_ for _ in ()).throw(LpmStreamError("killed")))
        with pytest.raises(LpmStreamError, match="killed"):
            onboard(broken)
    said.clear()
    onboard(order)
    assert dict(said)["history"] == "3 rows were loaded before"
    assert unfinished(order.streams) == {}


@pytest.mark.parametrize("differs", ["groups", "database"])
def test_what_is_said_otherwise_the_second_time_counts(stream, order, said, monkeypatch, differs):
    other = f"sqlite:///{path_of(stream, 'other')}"
    company = {"groups": Company(id="NEW", groups=("all",)), "database": Company(id="NEW", database=other)}[
        differs
    ]
    with monkeypatch.context() as patch:
        patch.setattr(entries, "finish_onboarding", lambda *_: (_ for _ in ()).throw(LpmStreamError("killed")))
        with pytest.raises(LpmStreamError, match="killed"):
            onboard(order)
    said.clear()
    assert failed(onboard(replace(order, company=company))) == {}
    assert "3 rows loaded" in dict(said)["history"]
    with closing(sqlite3.connect(path_of(stream, "other" if differs == "database" else "NEW"))) as connection:
        assert connection.execute("SELECT count(*) FROM orders").fetchone() == (3,)


def test_a_generation_is_larger_than_that_before_whatever_the_clock_says(stream, order, monkeypatch):
    with stream.store.write() as connection:
        entries.add(connection, order.company, 7)
    monkeypatch.setattr(entries, "new_generation", lambda: 3)
    assert entries.generation_for(stream.store, order.company) == 7
    assert entries.generation_for(stream.store, Company(id="NEW", groups=("all",))) == 8


def test_one_that_is_onboarded_is_refused(stream, order):
    onboard(order)
    for company in ("NEW", "A"):
        with pytest.raises(LpmStreamError, match=f"company '{company}' is registered already"):
            onboard(replace(order, company=Company(id=company)))
    assert registry.registered(stream.store) == ["A", "B", "NEW"]


def test_an_id_that_differs_in_case_only_is_refused(stream, order):
    with pytest.raises(LpmStreamError, match="'a' differs from 'A', which is registered, in upper and lower case"):
        onboard(replace(order, company=Company(id="a")))
    assert registry.registered(stream.store) == ["A", "B"]
    assert not path_of(stream, "a").exists()


def test_the_database_of_another_company_is_refused(stream, order):
    company = Company(id="NEW", database=f"sqlite:///{path_of(stream, 'A')}")
    with pytest.raises(OnboardingError, match=r"step 'database'.*belongs to company 'A'.*Nothing was registered"):
        onboard(replace(order, company=company))
    assert registry.registered(stream.store) == ["A", "B"]
    assert_delivered(stream, ["A"])


def test_a_database_that_cannot_be_opened_leaves_nothing(stream, order):
    (stream.settings.home / "file").touch()
    company = Company(id="NEW", database=f"sqlite:///{stream.settings.home}/file/below.db")
    with pytest.raises(OnboardingError, match=r"step 'database'.*Nothing was registered"):
        onboard(replace(order, company=company))
    assert registry.registered(stream.store) == ["A", "B"]


@pytest.mark.parametrize("place", ["env:NOT_SET_ANYWHERE", "file:/nowhere/at/all"])
def test_a_reference_that_leads_nowhere_is_said(stream, order, place):
    with pytest.raises(OnboardingError, match=r"step 'database'.*it has to hold the secret"):
        onboard(replace(order, company=Company(id="NEW", database=place)))
    assert registry.registered(stream.store) == ["A", "B"]


def test_a_database_by_reference_is_resolved_and_never_stored(stream, order, monkeypatch):
    monkeypatch.setenv("NEW_DATABASE", f"sqlite:///{stream.settings.home}/elsewhere.db")
    onboard(replace(order, company=Company(id="NEW", database="env:NEW_DATABASE")))
    with closing(sqlite3.connect(stream.settings.home / "elsewhere.db")) as connection:
        assert connection.execute("SELECT count(*) FROM orders").fetchall() == [(3,)]
    assert registry.database_urls(stream.store, stream.settings)["NEW"] == "env:NEW_DATABASE"


@pytest.mark.parametrize("spelled", ["NEW", "new"])
def test_two_operators_at_once(stream, order, spelled):
    name = leases.lease_name("onboard", "companies", "new")
    holder = leases.worker_name("onboard-elsewhere")
    lease = leases.acquire(stream.store, name, holder)
    assert lease is not None
    with pytest.raises(LpmStreamError, match=rf"'{spelled}' is being onboarded.* by onboard-elsewhere@"):
        onboard(replace(order, company=Company(id=spelled)))
    assert registry.registered(stream.store) == ["A", "B"]
    leases.release(stream.store, lease)
    assert failed(onboard(order)) == {}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"groups": ("nope",)}, "groups: 'nope' is none of all, base"),
        ({"feeds": ("nope",)}, "feeds: 'nope' is none of orders"),
        ({"state": "paused"}, "onboarded as active"),
    ],
)
def test_what_there_is_not_is_refused(stream, order, wrong, message):
    with pytest.raises(LpmStreamError, match=message):
        onboard(replace(order, company=Company(id="NEW", **wrong)))
    assert registry.registered(stream.store) == ["A", "B"]


def test_a_company_that_was_removed_is_counted_and_can_come_back(stream, order):
    onboard(order)
    entries.set_state(stream.store, "NEW", "offboarding")
    append(stream.table, orders(["5", "6"], ["NEW", "A"]))
    publish(stream)
    deliver(stream)
    assert [(one.company, one.changes) for one in progress.read_unknown(stream.store, "orders")] == [("NEW", 4)]
    assert_delivered(stream, ["A"])
    with closing(sqlite3.connect(path_of(stream, "NEW"))) as connection:
        assert connection.execute("SELECT count(*) FROM orders").fetchall() == [(3,)]
    assert failed(onboard(order)) == {}
    assert_delivered(stream, ["NEW"])


def test_data_is_not_dropped_beside_an_onboarding(stream, order):
    onboard(order)
    entries.set_state(stream.store, "NEW", "offboarding")
    name = leases.lease_name("onboard", "companies", "new")
    lease = leases.acquire(stream.store, name, leases.worker_name("onboard-elsewhere"))
    assert lease is not None
    with pytest.raises(LpmStreamError, match=r"is being onboarded.* by onboard-elsewhere@"):
        drop_data([stream], "NEW")
    leases.release(stream.store, lease)
    assert failed(onboard(order)) == {}
    assert_delivered(stream, ["NEW"])


def test_nobody_is_onboarded_while_the_data_is_dropped(stream, order, monkeypatch):
    onboard(order)
    entries.set_state(stream.store, "NEW", "offboarding")
    looked_up = entries.entitlement_of

    def beside(store: ControlStore, company: str) -> Entitlement:
        with ThreadPoolExecutor(1) as other, pytest.raises(LpmStreamError, match="its data dropped, by onboard@"):
            other.submit(onboard, order).result()
        return looked_up(store, company)

    with monkeypatch.context() as patch:
        patch.setattr(entries, "entitlement_of", beside)
        drop_data([stream], "NEW")
    assert failed(onboard(order)) == {}
    assert_delivered(stream, ["NEW"])


def killed(*_: object, **__: object) -> str:
    raise KeyboardInterrupt


def kill_before_registering(order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begins an onboarding that ends when the company's database is made, and nobody knows."""
    database, registering, *_ = onboarding._STEPS
    with monkeypatch.context() as patch:
        patch.setattr(onboarding, "_STEPS", (database, replace(registering, run=killed)))
        with pytest.raises(KeyboardInterrupt):
            onboard(order)


def test_what_was_killed_with_other_groups_goes_on_as_it_had_begun(stream, order, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(onboarding, "backfill", killed)
        with pytest.raises(KeyboardInterrupt):
            onboard(order)
    kill_before_registering(replace(order, company=Company(id="NEW", groups=("all",))), monkeypatch)
    assert failed(onboard(order)) == {}
    assert_delivered(stream, ["NEW"])
    assert unfinished(order.streams) == {}


def test_data_is_dropped_of_a_company_that_was_almost_taken_in_again(stream, order, monkeypatch):
    onboard(order)
    entries.set_state(stream.store, "NEW", "offboarding")
    kill_before_registering(replace(order, company=Company(id="NEW", groups=("all",))), monkeypatch)
    drop_data([stream], "NEW")
    with closing(sqlite3.connect(path_of(stream, "NEW"))) as connection:
        assert connection.execute("SELECT name FROM sqlite_schema WHERE name = 'orders'").fetchall() == []


@pytest.mark.parametrize("differs", ["state", "lease"])
def test_nothing_is_forgotten_of_a_company_that_has_come_back(stream, order, monkeypatch, differs):
    onboard(order)
    entries.set_state(stream.store, "NEW", "offboarding")
    renewed = leases.renew

    def back(store: ControlStore, lease: leases.Lease) -> None:
        renewed(store, lease)
        with store.write() as connection:
            if differs == "state":
                connection.execute(companies.update().values(state="active"))
            else:
                leases.write(connection, [lease.name], "somebody", lease.fence + 1, datetime.now(UTC))

    monkeypatch.setattr(leases, "renew", back)
    with pytest.raises(LpmStreamError, match="still served" if differs == "state" else "another worker"):
        drop_data([stream], "NEW")
    assert backfills.read(stream.store, "orders").keys() == {"NEW"}


def test_wrong_password_and_wrong_permissions(stream, order, postgresql_server, monkeypatch):
    with postgresql_server.name() as name:
        url = postgresql_server.url(name)
        postgresql_server.run(f"CREATE DATABASE {name}")
        postgresql_server.run("DROP ROLE IF EXISTS poor")
        postgresql_server.run("CREATE ROLE poor LOGIN")
        try:
            monkeypatch.setenv("POOR", url.set(username="poor").render_as_string(hide_password=False))
            monkeypatch.setenv("NOBODY", url.set(username="no_such_role").render_as_string(hide_password=False))
            for reference, message in (("env:POOR", "permission denied"), ("env:NOBODY", "no_such_role")):
                with pytest.raises(OnboardingError, match=rf"step 'database'.*{message}.*Nothing was registered"):
                    onboard(replace(order, company=Company(id="NEW", database=reference)))
        finally:
            postgresql_server.run("DROP ROLE poor")
    assert registry.registered(stream.store) == ["A", "B"]
