"""What people do is audited, whether they do it from the terminal or in Dagster."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from typer.testing import CliRunner

from lpm_stream import resync
from lpm_stream.alerts import incidents
from lpm_stream.alerts.cause import Cause
from lpm_stream.alerts.look import Look
from lpm_stream.cli.app import app
from lpm_stream.control import audit, entries, quarantine
from lpm_stream.control.company import Company
from lpm_stream.control.quarantine import Refused
from lpm_stream.control.registry import register
from lpm_stream.delivery.backfill import backfill
from lpm_stream.delivery.replay import replay
from lpm_stream.errors import LpmStreamError
from lpm_stream.stream import Stream
from lpm_stream_tests.example import append, deliver, orders, publish


@pytest.fixture
def delivered(stream: Stream) -> Stream:
    append(stream.table, orders(["1"], "A"))
    publish(stream)
    deliver(stream)
    return stream


def newest(stream: Stream) -> tuple[str, str | None, dict[str, Any]]:
    entry = audit.entries(stream.store)[-1]
    return entry.action, entry.company, dict(entry.details)


def load(stream: Stream, company: str = "A", *, go_on: bool = True) -> None:
    backfill(stream, company, rebuild=False, go_on=lambda: go_on, tell=lambda *_: None)


def test_a_registration_once(stream):
    assert [(one.action, one.company) for one in audit.entries(stream.store)] == [
        ("register", "A"),
        ("register", "B"),
    ]
    register(stream.store, "A")
    register(stream.store, "C", "postgresql://me:hush@host/c")
    assert len(audit.entries(stream.store)) == 3
    assert newest(stream) == ("register", "C", {"own_database": True})


def test_what_happens_to_a_company(stream):
    company = Company(id="NEW", groups=("base",))
    with stream.store.write() as connection:
        entries.add(connection, company, 1)
    entries.finish_onboarding(stream.store, "NEW")
    after = company.model_copy(update={"groups": ("all",), "contacts": ("me@example.org",)})
    with stream.store.write() as connection:
        entries.change(connection, company, after)
    for state in ("paused", "paused", "active", "offboarding"):
        entries.set_state(stream.store, "NEW", state)
    found = audit.entries(stream.store, company="NEW")
    assert [one.action for one in found] == ["onboard", "onboarded", "entitlement", "pause", "resume", "remove"]
    assert found[0].details == {"groups": "base", "feeds": "all"}
    assert found[2].details == {"groups": '["base"] -> ["all"]', "contacts": "changed"}
    assert audit.verify(stream.store).problem == ""


def test_a_backfill_when_it_begins_and_how_it_ends(delivered):
    load(delivered)
    begun, ended = audit.entries(delivered.store, company="A")[-2:]
    assert (begun.action, ended.action) == ("backfill", "backfill_ended")
    assert begun.details == {"feed": "orders", "id": ended.details["id"], "version": 1, "rebuild": False}
    assert ended.details["outcome"] == "loaded"
    with pytest.raises(LpmStreamError):
        load(delivered, go_on=False)
    assert "was stopped" in newest(delivered)[2]["outcome"]


def test_a_resync(delivered):
    version = resync.begin_anew(delivered)
    action, company, details = newest(delivered)
    assert (action, company, details["version"]) == ("resync", None, version)


def test_a_replay_and_a_discard(delivered):
    rows = [
        Refused(company, 1, "deliver", "no", f'{{"id": "{key}"}}')
        for company, key in [("A", 1), ("B", 2), ("", 3)]
    ]
    with delivered.store.write() as connection:
        quarantine.add(connection, "orders", rows)
    replay(delivered, "A")
    assert newest(delivered) == ("replay", "A", {"feed": "orders", "applied": 1, "superseded": 0, "refused": 0})
    chosen = quarantine.entries(delivered.store, "orders")
    assert quarantine.discard(delivered.store, "orders", chosen) == 2
    assert quarantine.discard(delivered.store, "orders", chosen) == 0
    discards = [one for one in audit.entries(delivered.store) if one.action == "discard"]
    assert {one.company: one.details["rows"] for one in discards} == {"B": 1, None: 1}


def test_what_is_done_to_alerts(stream):
    now = datetime.now(UTC)
    cause = Cause("parked", "A", "it is down", now, "A", "its disk", "lpm-stream status", "/")
    pace = incidents.Pace()
    incidents.update(
        stream.store, "orders", Look((cause,), frozenset()), [], pace=pace, dagster_url="http://d", now=now
    )
    [incident] = incidents.read_incidents(stream.store, "orders")
    incidents.acknowledge(stream.store, "orders", incident.id)
    assert newest(stream) == ("acknowledge", "A", {"feed": "orders", "incident": incident.id, "cause": "parked"})
    incidents.silence(stream.store, "orders", incidents.Silence(None, "B", now))
    assert newest(stream) == ("silence", "B", {"feed": "orders", "cause": None, "until": now.isoformat()})
    incidents.end_silences(stream.store, "orders", None, "B")
    incidents.end_silences(stream.store, "orders", None, "B")
    assert newest(stream) == ("end_silence", "B", {"feed": "orders", "cause": None})
    assert len(audit.entries(stream.store)) == 5


def command(stream: Stream, *arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, [*arguments, "--dir", str(stream.settings.home)])
    return done.exit_code, done.stdout


def test_the_command_lists_and_verifies(stream, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, text = command(stream, "audit", "--company", "B")
    assert code == 0
    assert "register" in text
    [entry] = json.loads(command(stream, "audit", "--company", "B", "--json", "-")[1])
    assert (entry["number"], entry["company"]) == (2, "B")
    assert json.loads(command(stream, "audit", "--since", "2100-01-01", "--json", "-")[1]) == []
    code, text = command(stream, "audit", "--verify")
    assert code == 0
    head = text.splitlines()[-1]
    assert command(stream, "audit", "--verify", "--head", head)[0] == 0
    code, text = command(stream, "audit", "--verify", "--head", f"3{head[1:]}", "--json", "-")
    assert code == 1
    assert json.loads(text) == {"head": head, "problem": "the chain ends at entry 2: entries up to 3 were cut off"}


@pytest.mark.parametrize(
    "arguments", [["--head", "1:a"], ["--verify", "--company", "A"], ["--verify", "--since", "2020-01-01"]]
)
def test_options_that_do_not_go_together(stream, arguments):
    with pytest.raises(LpmStreamError, match="--verify"):
        CliRunner().invoke(app, ["audit", *arguments, "--dir", str(stream.settings.home)], catch_exceptions=False)
