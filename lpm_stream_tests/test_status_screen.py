"""What `status --watch` shows of many companies, and how it ends."""

import os
import pty
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta

from rich.console import Console

from lpm_stream.cli.status import rendered
from lpm_stream.control.parking import Parked
from lpm_stream.control.registry import register
from lpm_stream.status import CompanyStatus, Status, read_status
from lpm_stream_tests.example import append, orders, publish

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def company(name: str, applied_seconds_ago: float, *, quarantined: int = 0, parked: bool = False) -> CompanyStatus:
    reason = "its database cannot be reached, " * 10
    return CompanyStatus(
        company=name,
        state="parked" if parked else "streaming",
        changes=1,
        lag_seconds=0.0,
        p50=None,
        p99=None,
        version=1,
        quarantined=quarantined,
        parked=Parked(name, 0, 1, NOW, NOW, reason, 1, NOW, "fault", 5) if parked else None,
        lacks_before=None,
        backfill=None,
        applied_at=NOW - timedelta(seconds=applied_seconds_ago),
    )


def screen(companies: list[CompanyStatus], waiting: dict[int, int] | None = None) -> list[str]:
    of = waiting or {}
    now = Status("f", NOW, 1, 1, (), None, None, sum(of.values()), of, (), tuple(companies), ())
    console = Console(width=100, height=24)
    with console.capture() as capture:
        console.print(rendered(now, 12, one_line=True))
    return capture.get().splitlines()


def test_a_thousand_companies_fit_and_those_in_need_come_first():
    many = [company(f"C{number}", number) for number in range(1_000)]
    lines = screen([*many, company("QUARANTINE", 9_999, quarantined=3), company("PARKED", 9_999, parked=True)])
    assert len(lines) <= 24
    assert lines[2] == "1,002 companies: 1,001 streaming, 1 parked, 1 with rows in quarantine"
    shown = [line.split()[0] for line in lines if " streaming" in line or " parked" in line]
    assert shown[1:] == ["PARKED", "QUARANTINE", *(f"C{number}" for number in range(10))]
    assert any("and 990 more" in line for line in lines)


def test_the_partition_that_is_behind_is_named(stream):
    assert "hub 7 messages waiting publisher" in " ".join(" ".join(screen([], {0: 3, 1: 4})).split())
    shown = " ".join(" ".join(screen([], {0: 1, 1: 5_000})).split())
    assert "hub 5,001 messages waiting (5,000 in partition 1)" in shown
    register(stream.store, "A")
    append(stream.table, orders(["1"], "A"))
    publish(stream)
    waiting = read_status(stream).hub_messages_of
    assert waiting == {partition: int(partition == stream.hub.partition_of("A")) for partition in waiting}
    assert len(waiting) == len(stream.hub.partitions())


def test_watching_ends_well_with_ctrl_c(tmp_path):
    command = [sys.executable, "-m", "lpm_stream"]
    subprocess.run([*command, "companies", "add", "ACME", "--dir", str(tmp_path)], check=True, capture_output=True)
    screen, terminal = pty.openpty()
    with subprocess.Popen(
        [*command, "status", "--watch", "--dir", str(tmp_path)],
        stdout=terminal,
        stderr=subprocess.PIPE,
        env=os.environ | {"COLUMNS": "120", "LINES": "30", "TERM": "xterm"},
    ) as watching:
        seen = b""
        while b"ACME" not in seen:
            seen += os.read(screen, 10_000)
        watching.send_signal(signal.SIGINT)
        _, errors = watching.communicate(timeout=60)
    os.close(terminal)
    os.close(screen)
    assert (watching.returncode, errors) == (0, b"")
