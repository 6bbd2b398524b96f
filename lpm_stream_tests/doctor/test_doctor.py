"""doctor finds what is wrong with parts that are really broken, and looks at the others all the same."""

import json
import shutil
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, TickData, TickStatus
from dagster._daemon.types import DaemonHeartbeat
from dagster_shared.error import SerializableErrorInfo
from typer.testing import CliRunner

from lpm_stream.cli.app import app
from lpm_stream.control import audit
from lpm_stream.control.registry import register
from lpm_stream.doctor import companies, run
from lpm_stream.doctor.outcome import Outcome, examine
from lpm_stream.settings import Settings
from lpm_stream_tests.example import SPEC, append, create_table, deliver, orders, publish

ORDER = ["home", "source table", "change data feed", "hub", "control store", "audit", "database of 'A'"]
ORDER += ["database of 'B'", "legacy files", "alerts", "Dagster"]


@pytest.fixture(autouse=True)
def _no_dagster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)


def doctor(settings: Settings) -> dict[str, Outcome]:
    return {one.part: one for one in run.doctor(settings, SPEC, lambda _done, _of: None)}


def failed(found: dict[str, Outcome]) -> list[str]:
    assert all(one.fix for one in found.values() if one.verdict == "failed")
    assert not any("\n" in one.what for one in found.values())
    return [one.part for one in found.values() if one.verdict == "failed"]


def test_a_healthy_stream(stream):
    append(stream.table, orders(["1"], "A"))
    publish(stream)
    deliver(stream)
    told: list[tuple[int, int]] = []
    found = list(run.doctor(stream.settings, SPEC, lambda done, of: told.append((done, of))))
    assert [one.part for one in found] == ORDER
    verdicts = {one.part: one.verdict for one in found}
    assert verdicts.pop("database of 'A'") == "ok", found
    assert {part for part, verdict in verdicts.items() if verdict == "skipped"} == set(ORDER[7:])
    assert "failed" not in verdicts.values()
    assert told == [(1, 2), (2, 2)]
    assert not (stream.settings.home / "companies" / "B.db").exists()


def test_a_home_that_is_not_there_is_all_there_is_to_say(tmp_path):
    found = doctor(Settings.load(tmp_path / "mistyped"))
    assert failed(found) == ["home"] == list(found)
    assert not (tmp_path / "mistyped").exists()


def test_everything_broken_at_once_is_all_found(stream, tmp_path, monkeypatch):
    home = stream.settings.home
    shutil.rmtree(stream.table)
    (tmp_path / "file").write_text("")
    broken = stream.settings.model_copy(
        update={
            "hub_url": f"local:{tmp_path}/file/hub",
            "control_url": "postgresql://me:hush@127.0.0.1:1/control",
            "legacy_url": str(home / "nowhere"),
            "alert_urls": "env:NOT_SET mailto://hush",
        }
    )
    monkeypatch.setenv("DAGSTER_HOME", str(home / "nowhere"))
    found = doctor(broken)
    assert failed(found) == ["source table", "change data feed", "hub", "control store", "alerts", "Dagster"]
    assert "no Delta table" in found["source table"].what
    assert "refused" in found["control store"].what
    assert {found[part].verdict for part in ("audit", "company databases")} == {"skipped"}
    assert "hush" not in str(found)


def test_a_table_without_its_feed_or_its_columns(stream):
    shutil.rmtree(stream.table)
    create_table(stream.table, cdf=False)
    assert failed(doctor(stream.settings)) == ["change data feed"]


def test_a_control_store_of_a_newer_program(stream):
    with closing(sqlite3.connect(stream.settings.home / "control.db")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    found = doctor(stream.settings)
    assert failed(found) == ["control store"]
    assert "newer lpm_stream (schema 9999" in found["control store"].what


def test_an_audit_that_was_tampered_with(stream):
    with closing(sqlite3.connect(stream.settings.home / "control.db")) as connection:
        connection.execute("DROP TRIGGER audit_update")
        connection.execute("UPDATE audit SET who = 'nobody' WHERE number = 2")
        connection.commit()
    found = doctor(stream.settings)
    assert failed(found) == ["audit"]
    assert "entry 2 was changed" in found["audit"].what
    assert len(audit.entries(stream.store)) == 2


def test_databases_that_cannot_be_delivered_to(stream, tmp_path):
    append(stream.table, orders(["1", "2"], ["A", "B"]))
    publish(stream)
    deliver(stream)
    folder = stream.settings.home / "companies"
    register(stream.store, "garbage", f"sqlite:///{folder}/garbage.db")
    (folder / "garbage.db").write_bytes(b"garbage" * 1_000)
    register(stream.store, "theirs", f"sqlite:///{folder}/A.db")
    register(stream.store, "down", "postgresql://me@127.0.0.1:1/c?password=env:NOT_SET")
    register(stream.store, "typo", "hush")
    with closing(sqlite3.connect(folder / "B.db")) as connection:
        connection.execute("ALTER TABLE orders RENAME COLUMN id TO was_id")
        connection.commit()
    found = doctor(stream.settings)
    said = {part.partition("'")[2].rstrip("'"): found[part].what for part in failed(found)}
    assert said.keys() == {"B", "down", "garbage", "theirs", "typo"}
    assert "does not fit the contract" in said["B"]
    assert "belongs to company 'A'" in said["theirs"]
    assert "not a database" in said["garbage"]
    assert "NOT_SET is not set" in said["down"]
    assert "not a SQLAlchemy URL" in said["typo"]
    assert "hush" not in str(found)


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that takes connections and never says anything."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server.getsockname()[1]


def test_a_database_that_never_answers_holds_up_nobody(stream, silent, monkeypatch):
    monkeypatch.setattr(companies, "_SECONDS", 0.3)
    register(stream.store, "silent", f"postgresql://me@127.0.0.1:{silent}/c?connect_timeout=3")
    found = doctor(stream.settings)
    assert failed(found) == ["database of 'silent'"]
    assert "no answer within 0.3 s" in found["database of 'silent'"].what
    assert {"database of 'A'", "legacy files", "Dagster"} <= found.keys()


def test_a_defect_of_ours_does_not_end_it():
    found = examine("x", lambda: {"a caller": "1"}["another caller"], fix="f", seconds=5)
    assert (found.verdict, found.what) == ("failed", "unexpected KeyError")  # what it says may quote a row


def test_an_alert_channel_is_looked_at_without_sending(stream, monkeypatch):
    monkeypatch.setenv("GOOD", "json://127.0.0.1:1/hush")
    monkeypatch.setenv("BAD", "hush")
    found = doctor(stream.settings.model_copy(update={"alert_urls": "env:GOOD env:BAD"}))
    assert failed(found) == ["alerts to env:BAD"]
    assert found["alerts to env:GOOD"].verdict == "ok"
    assert "hush" not in str(found)


@pytest.fixture
def dagster_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "dagster"
    home.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    return home


def state_of(sensor: str, status: InstigatorStatus) -> InstigatorState:
    repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("lpm_stream"), "__repository__")
    origin = RemoteInstigatorOrigin(repository, sensor)
    return InstigatorState(origin, InstigatorType.SENSOR, status)


def let_daemons_live(instance: dg.DagsterInstance) -> None:
    for kind in instance.get_required_daemon_types():
        beat = DaemonHeartbeat(timestamp=time.time(), daemon_type=kind, daemon_id="x", errors=[])
        instance.add_daemon_heartbeat(beat)


def test_a_daemon_that_never_ran(stream, dagster_home):
    assert "dagster-daemon has never run" in doctor(stream.settings)["Dagster"].what


def test_a_daemon_that_has_died_and_a_sensor_that_is_off(stream, dagster_home):
    with dg.DagsterInstance.get() as instance:
        let_daemons_live(instance)
    assert doctor(stream.settings)["Dagster"].verdict == "ok"
    with dg.DagsterInstance.get() as instance:
        old = DaemonHeartbeat(timestamp=time.time() - 9_999, daemon_type="SENSOR", daemon_id="x", errors=[])
        instance.add_daemon_heartbeat(old)
        for name in ("deliver_orders", "deliver_others", "watch_orders_files", "onboard_new_partitions"):
            instance.add_instigator_state(state_of(name, InstigatorStatus.STOPPED))
    found = doctor(stream.settings)["Dagster"]
    assert found.verdict == "failed"
    assert "daemon SENSOR does not run" in found.what
    for name in ("deliver_orders", "watch_orders_files", "onboard_new_partitions"):
        assert f"sensor {name} is off" in found.what
    assert "deliver_others" not in found.what


def test_a_sensor_whose_ticks_fail(stream, dagster_home):
    error = SerializableErrorInfo("dagster.Wrapped: the disk", [], "Wrapped")
    with dg.DagsterInstance.get() as instance:
        let_daemons_live(instance)
        state = state_of("onboard_new_partitions", InstigatorStatus.DECLARED_IN_CODE)
        instance.add_instigator_state(state)
        for seconds in (1, 2, 3):
            assert doctor(stream.settings)["Dagster"].verdict == "ok"
            tick = TickData(
                state.instigator_origin_id,
                state.instigator_name,
                InstigatorType.SENSOR,
                TickStatus.FAILURE,
                float(seconds),
                error=error,
                selector_id=state.selector_id,
            )
            instance.create_tick(tick)
    found = doctor(stream.settings)["Dagster"]
    assert found.verdict == "failed"
    assert found.what.endswith(
        "sensor onboard_new_partitions fails since 1970-01-01T00:00:01Z: dagster.Wrapped: the disk"
    )


def test_the_command(stream, monkeypatch):
    monkeypatch.setattr("lpm_stream.cli.doctor.the_feed", lambda *_: SPEC)
    arguments = ["doctor", "--dir", str(stream.settings.home)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0
    assert "nothing has failed" in done.stdout
    shutil.rmtree(stream.table)
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1
    assert "2 of 11 parts have failed" in done.stdout
    assert "fix: check LPM_STREAM_TABLES_URL" in done.stdout
    found = json.loads(CliRunner().invoke(app, [*arguments, "--json", "-"]).stdout)
    assert [one["part"] for one in found] == ORDER
