"""The relay as a process: killed again and again, doubled, stopped."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from lpm_stream.alerts import raised
from lpm_stream.alerts.incidents import read_incidents
from lpm_stream.control.leases import holders, lease_name
from lpm_stream.control.progress import read_deliveries
from lpm_stream.feed.load import load_feeds
from lpm_stream.relay import _alerting
from lpm_stream.settings import Settings
from lpm_stream.stream import Stream, open_stream

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
def running(home: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A command in the background, killed at the end if it still runs."""
    process = subprocess.Popen(
        command(home, *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
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
        assert relay.wait(6) == 0
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


def test_a_second_relay_stands_by_and_takes_over(tmp_path):
    with running(tmp_path, "simulate", "--rate", "500", "--for", "6") as traffic:
        wait_for_table(tmp_path)
        with running(tmp_path, "relay") as first, running(tmp_path, "relay") as second:
            wait_until_relaying(first)
            wait_until_relaying(second)
            assert second.stderr is not None
            time.sleep(1)
            holder = json.loads(run(tmp_path, "status", "--json", "-").stdout)["deliverer"]
            active, idle = (first, second) if f":{first.pid}:" in holder else (second, first)
            active.kill()
            assert traffic.wait(30) == 0
            deadline = time.monotonic() + 30
            while run(tmp_path, "verify").returncode != 0:
                assert time.monotonic() < deadline, "the second relay has not taken over"
            assert idle.poll() is None
            idle.send_signal(signal.SIGTERM)
            assert idle.wait(5) == 0
    verified(tmp_path)


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
        assert relay.wait(6) == 0
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
            assert relay.wait(6) == 0


def test_it_tells_what_is_wrong(stream, monkeypatch):
    monkeypatch.setattr("lpm_stream.relay._ALERT_SECONDS", 0.01)
    raised.check_came_out(stream.store, stream.spec.name, "complete", "A", "3 keys are missing")
    stop = threading.Event()
    with _alerting(stream, stop):
        end = time.monotonic() + 60
        while not (found := read_incidents(stream.store, stream.spec.name)):
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.01)
    assert [one.cause.kind for one in found] == ["check_failed:complete"]
