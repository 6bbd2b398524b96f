"""The relay as a process: killed again and again, doubled, stopped."""

import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from lpm_stream.alerts import raised
from lpm_stream.alerts.incidents import read_incidents
from lpm_stream.alerts.run import run as run_alerts
from lpm_stream.control import tables
from lpm_stream.control.leases import holders, lease_name
from lpm_stream.control.progress import read_deliveries
from lpm_stream.errors import SourceError
from lpm_stream.feed.load import load_feeds
from lpm_stream.relay import _alerting, _publishing, relay
from lpm_stream.settings import Settings
from lpm_stream.stream import Stream, open_stream
from lpm_stream_tests.example import append, orders

KILLS = 30


def command(home: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "lpm_stream", *arguments, "--dir", str(home)]


def run(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(home, *arguments), capture_output=True, text=True, timeout=120, check=False, env=environment()
    )


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONWARNINGS": "error", "COLUMNS": "200"}


@contextmanager
def running(home: Path, *arguments: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """A command in the background, killed at the end if it still runs."""
    process = subprocess.Popen(
        command(home, *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment() | variables,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_until_relaying(process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    line = process.stderr.readline()
    assert line.startswith("relaying"), line + process.stderr.read()


def verified(home: Path) -> dict[str, object]:
    done = run(home, "verify", "--json", "-")
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, object] = json.loads(done.stdout)
    return report


@pytest.mark.timeout(280)
def test_killed_at_random_moments_it_loses_and_doubles_nothing(tmp_path):
    moments = random.Random(20260101)
    with running(tmp_path, "simulate", "--rate", "2000", "--companies", "6") as traffic:
        wait_for_table(tmp_path)
        with open_stream(Settings.load(tmp_path), load_feeds()["tdr"]) as stream:
            for _ in range(KILLS):
                with running(tmp_path, "relay") as relay:
                    wait_until(partial(came_further, stream, applied_at(stream)))
                    time.sleep(moments.uniform(0, 1.2))
                    relay.send_signal(signal.SIGKILL)
        traffic.send_signal(signal.SIGINT)
        assert traffic.wait(20) == 0
    for drain in ("publish", "deliver"):
        done = run(tmp_path, drain)
        assert done.returncode == 0, done.stderr
    report = verified(tmp_path)
    companies = report["companies"]
    assert isinstance(companies, list)
    assert len(companies) == 6
    assert all(one["counts"]["rows_in_database"] > 100 for one in companies)


def applied_at(stream: Stream) -> datetime:
    """When a company's database was last seen to take something."""
    times = [one.applied_at for one in read_deliveries(stream.store, stream.spec.name).values()]
    return max(times, default=datetime.min.replace(tzinfo=UTC))


def came_further(stream: Stream, before: datetime) -> bool:
    return applied_at(stream) > before


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it has not come so far"
        time.sleep(0.02)


def wait_for_table(home: Path) -> None:
    wait_until(lambda: bool(list(home.glob("tables/*/_delta_log/*.json"))))


def test_a_company_is_added_while_it_runs(tmp_path):
    with running(tmp_path, "simulate", "--rate", "500", "--companies", "4"), running(tmp_path, "relay") as relay:
        wait_for_table(tmp_path)
        wait_until_relaying(relay)
        removed = run(tmp_path, "companies", "remove", "COMPANY-02")
        assert removed.returncode == 0, removed.stderr
        time.sleep(2)  # long enough for changes that nobody keeps for it
        added = run(tmp_path, "companies", "add", "COMPANY-02", "--groups", "base", "--name", "Second & Co")
        assert added.returncode == 0, added.stdout + added.stderr
        assert "rows loaded" in added.stdout
        verified_now = run(tmp_path, "verify", "--company", "COMPANY-02", "--json", "-")
        assert verified_now.returncode == 0, verified_now.stdout + verified_now.stderr
        [one] = json.loads(verified_now.stdout)["companies"]
        assert one["counts"]["rows_in_database"] > 100
        relay.send_signal(signal.SIGTERM)
        assert relay.wait(6) in (0, 143)
    with closing(sqlite3.connect(tmp_path / "companies" / "COMPANY-02.db")) as connection:
        assert "sipreq" not in {name for _, name, *_ in connection.execute("PRAGMA table_info(tdr)")}


def test_it_ends_at_once_and_in_order_when_it_is_told_to(tmp_path):
    with running(tmp_path, "simulate", "--rate", "2000", "--for", "3"), running(tmp_path, "relay") as relay:
        wait_until_relaying(relay)
        time.sleep(2)
        relay.send_signal(signal.SIGTERM)
        assert relay.wait(5) == 0
    status = json.loads(run(tmp_path, "status", "--json", "-").stdout)
    assert (status["publisher"], status["deliverer"]) == (None, None)


def test_two_relays_split_the_partitions_and_one_takes_over_from_the_other(tmp_path):
    with running(tmp_path, "simulate", "--rate", "500", "--companies", "8") as traffic:
        wait_for_table(tmp_path)
        with (
            running(tmp_path, "relay") as first,
            running(tmp_path, "relay") as second,
            open_stream(Settings.load(tmp_path), load_feeds()["tdr"]) as stream,
        ):
            wait_until(lambda: partitions_in_hand(stream) == {first.pid: 2, second.pid: 2})
            wait_until(lambda: {came_from(stream, pid) for pid in (first.pid, second.pid)} == {True})
            first.kill()
            wait_until(lambda: partitions_in_hand(stream) == {second.pid: 4})
            before = applied_at(stream)
            wait_until(lambda: came_further(stream, before))
            traffic.send_signal(signal.SIGINT)
            assert traffic.wait(30) == 0
            wait_until(lambda: run(tmp_path, "verify").returncode == 0)
            assert second.poll() is None
            second.send_signal(signal.SIGTERM)
            assert second.wait(5) == 0
    verified(tmp_path)


def partitions_in_hand(stream: Stream) -> dict[int, int]:
    """Process to the number of partitions that it delivers."""
    shared = f"{lease_name('deliver', stream.spec.name)}:"
    names = holders(stream.store).items()
    return dict(Counter(int(holder.split(":")[-2]) for name, holder in names if name.startswith(shared)))


def came_from(stream: Stream, pid: int) -> bool:
    """Whether a company's database has taken something of a partition that this process has, since it has it."""
    with stream.store.read() as connection:
        rows = connection.execute(
            sa.select(tables.leases).where(tables.leases.c.name.startswith("deliver:"))
        ).all()
    begun = {
        int(row.name.split(":")[-1]): datetime.fromtimestamp(row.fence / 1000, UTC)
        for row in rows
        if f":{pid}:" in row.holder and row.name.count(":") > 1
    }
    delivered = read_deliveries(stream.store, stream.spec.name).values()
    return any(one.partition in begun and one.applied_at > begun[one.partition] for one in delivered)


def test_a_publishing_process_that_dies_is_followed_by_another(tmp_path):
    with running(tmp_path, "simulate", "--rate", "500") as traffic, running(tmp_path, "relay") as relay:
        wait_for_table(tmp_path)
        with open_stream(Settings.load(tmp_path), load_feeds()["tdr"]) as stream:
            wait_until(partial(came_further, stream, applied_at(stream)))
            first = publisher_pid(stream)
            assert first is not None
            os.kill(int(first), signal.SIGKILL)
            wait_until(lambda: publisher_pid(stream) not in (None, first))
            wait_until(partial(came_further, stream, applied_at(stream)))
        relay.send_signal(signal.SIGTERM)
        assert relay.wait(6) in (0, 143)
        traffic.send_signal(signal.SIGINT)
        assert "its process died (exit code -9)" in relay.communicate()[1].replace("\n", " ")


def publisher_pid(stream: Stream) -> str | None:
    holder = holders(stream.store).get(lease_name("publish", stream.spec.name))
    return None if holder is None else holder.split(":")[-2]


def test_a_database_that_does_not_answer_does_not_keep_it_from_ending(tmp_path):
    with running(tmp_path, "simulate", "--rate", "500"), running(tmp_path, "relay") as relay:
        wait_for_table(tmp_path)
        with open_stream(Settings.load(tmp_path), load_feeds()["tdr"]) as stream:
            wait_until(partial(came_further, stream, applied_at(stream)))
        path = next((tmp_path / "companies").glob("*.db"))
        with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as locking:
            locking.execute("BEGIN IMMEDIATE")
            time.sleep(1)
            relay.send_signal(signal.SIGTERM)
            assert relay.wait(6) in (0, 143)


@pytest.mark.parametrize("command", ["publish", "deliver", "relay"])
def test_a_hub_that_does_not_answer_does_not_keep_it_from_ending(tmp_path, command):
    assert run(tmp_path, "simulate", "--rate", "100", "--for", "1").returncode == 0
    with socket.create_server(("localhost", 0)) as silent:
        hub = f"kafka://localhost:{silent.getsockname()[1]}/tdr"
        with running(tmp_path, command, LPM_STREAM_HUB_URL=hub) as process:
            connection, _ = silent.accept()
            process.send_signal(signal.SIGTERM)
            assert process.wait(6) in (0, 2, 143)
            connection.close()


def test_it_tells_what_is_wrong(stream, monkeypatch):
    monkeypatch.setattr("lpm_stream.relay._ALERT_SECONDS", 0.01)
    raised.check_came_out(stream.store, stream.spec.name, "complete_against_source", "A", "3 keys are missing")
    stop = threading.Event()
    with _alerting(stream.settings, stream.spec, stop):
        found = awaited_incidents(stream)
    assert found == ["check_failed:complete_against_source"]


def test_it_tells_of_a_hub_that_cannot_be_opened_and_goes_on_once_it_can(stream, tmp_path, monkeypatch):
    monkeypatch.setattr("lpm_stream.relay._ALERT_SECONDS", 0.01)
    hub = tmp_path / "another"
    hub.write_text("no directory")
    settings = stream.settings.model_copy(update={"hub_url": f"local:{hub}"})
    append(stream.table, orders(["1"], "A"))
    stop = threading.Event()
    running = threading.Thread(target=relay, args=(settings, stream.spec, stop, time.time))
    running.start()
    try:
        assert awaited_incidents(stream) == ["hub_unreadable"]
        hub.unlink()
        wait_until(lambda: "A" in read_deliveries(stream.store, stream.spec.name))
    finally:
        stop.set()
        running.join()


def awaited_incidents(stream: Stream) -> list[str]:
    end = time.monotonic() + 60
    while not (found := read_incidents(stream.store, stream.spec.name)):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
    return [one.cause.kind for one in found]


def test_it_looks_again_after_an_unexpected_error(stream, monkeypatch, caplog):
    monkeypatch.setattr("lpm_stream.relay._ALERT_SECONDS", 0.01)
    raised.check_came_out(stream.store, stream.spec.name, "complete_against_source", "A", "3 keys are missing")
    failures = iter([OverflowError("a row")])

    def fails_once(*arguments: Any, **options: Any) -> None:
        for failure in failures:
            raise failure
        run_alerts(*arguments, **options)

    monkeypatch.setattr("lpm_stream.relay.run_alerts", fails_once)
    with _alerting(stream.settings, stream.spec, threading.Event()):
        assert awaited_incidents(stream) == ["check_failed:complete_against_source"]
    assert "alerts: unexpected OverflowError" in caplog.text
    assert "a row" not in caplog.text


def test_it_tells_of_a_publishing_process_that_dies_again_and_again(stream):
    stop = threading.Event()
    with _publishing(stream.settings, stream.spec, stop, os.abort):
        wait_until(lambda: bool(raised.read_raised(stream.store, stream.spec.name)))
    [cause] = raised.read_raised(stream.store, stream.spec.name)
    assert (cause.kind, cause.company) == ("publishing_stopped", "")
    assert "its process died (exit code -6)" in cause.what


def test_a_publishing_process_that_dies_has_said_better_why(stream):
    raised.publishing_stopped(stream.store, stream.spec.name, SourceError("no table"))
    raised.publisher_died(stream.store, stream.spec.name, 1)
    assert [one.what for one in raised.read_raised(stream.store, stream.spec.name)] == [
        "publishing has stopped: no table"
    ]
