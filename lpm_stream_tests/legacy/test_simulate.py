"""Simulated files with faults: each is found, and nothing else; and the commands."""

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from lpm_stream.errors import LegacyError
from lpm_stream.legacy.location import open_location
from lpm_stream.legacy.names import Period
from lpm_stream.legacy.report import Faults
from lpm_stream.legacy.simulate import Fault, Written, write_file
from lpm_stream.stream import Stream
from lpm_stream_tests.example import orders
from lpm_stream_tests.legacy.example import HOUR, LATER, NEXT, commit, compare, deliver, keys, touch

FOUND = {
    None: (Faults(20, 20), {}),
    "missing-row": (Faults(19, 20, extra=1), {"extra": ["k0"]}),
    "extra-row": (Faults(21, 20, missing=1), {"missing": ["!0"]}),
    "changed-value": (Faults(20, 20, different=1), {"different": ["k0"]}),
}


@pytest.fixture
def delivered(stream):
    for company in ("A", "B"):
        rows = orders([f"k{number}" for number in range(20)], company)
        commit(stream, rows.with_columns(pl.col("id") + ("" if company == "A" else "b")))
    deliver(stream)
    return stream


def write(stream: Stream, company: str, fault: Fault | None = None, period: Period = HOUR) -> Written:
    with open_location(stream.settings) as location:
        written = write_file(stream.spec, stream.table, location, company, period, fault=fault)
    if written.path:
        touch(stream, written.path, period.end + timedelta(minutes=1))
    return written


@pytest.mark.parametrize("fault", FOUND)
def test_each_fault_is_found_for_its_company_and_nothing_else(delivered, fault):
    written = write(delivered, "A", fault)
    write(delivered, "B")
    a, b = compare(delivered)
    faults, examples = FOUND[fault]
    assert (a.verdict, a.faults, a.problem) == ("failed" if fault else "passed", faults, None)
    assert keys(a) == examples
    assert (b.verdict, b.faults) == ("passed", Faults(20, 20))
    assert [list(written.key)] == list(examples.values()) or not fault


def test_a_truncated_file(delivered):
    write(delivered, "A", "truncated-file")
    [result] = compare(delivered)
    assert (result.verdict, result.examples) == ("failed", {})
    assert "cut short" in (result.problem or "")


def test_a_late_file(delivered):
    write(delivered, "A")
    assert write(delivered, "A", "late-file", NEXT).path is None
    late = compare(delivered, NEXT.end + timedelta(minutes=30))[1]
    assert (late.verdict, late.period) == ("late", NEXT)
    write(delivered, "A", None, NEXT)
    assert compare(delivered, NEXT.end + timedelta(minutes=30))[1].verdict == "passed"


def test_a_file_has_what_was_committed_by_its_cut(delivered):
    commit(delivered, orders(["late"], "A"), HOUR.end + timedelta(seconds=1))
    deliver(delivered)
    assert write(delivered, "A").rows == 20
    [result] = compare(delivered, LATER)
    assert (result.verdict, result.faults.explained) == ("passed", {"committed_later": 1})


def test_no_row_no_fault(delivered):
    with pytest.raises(LegacyError, match="no row to make the fault missing-row of"):
        write(delivered, "A", "missing-row", NEXT)


def run(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lpm_stream", *arguments, "--dir", str(home)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"COLUMNS": "200", "PYTHONWARNINGS": "error"},
    )


def settle(home: Path) -> None:
    """Lets all files be written some time ago."""
    for path in (home / "legacy").rglob("*.gz"):
        earlier = path.stat().st_mtime - 600
        os.utime(path, (earlier, earlier))


def test_the_commands(tmp_path):
    assert run(tmp_path, "simulate", "--for", "1", "--companies", "2").returncode == 0
    assert run(tmp_path, "publish").returncode == 0
    assert run(tmp_path, "deliver").returncode == 0
    written = run(tmp_path, "simulate-legacy", "--periods", "2", "--json", "-")
    assert written.returncode == 0, written.stderr
    assert run(tmp_path, "reconcile", "--company", "nobody").returncode == 2
    assert "give an instant like" in run(tmp_path, "reconcile", "--since", "yesterday").stderr
    settle(tmp_path)
    done = run(tmp_path, "reconcile", "--json", str(tmp_path / "out.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert [one["verdict"] for one in results] == ["passed"] * 4
    truncated = run(tmp_path, "simulate-legacy", "--company", "COMPANY-02", "--fault", "truncated-file")
    assert "with fault truncated-file" in truncated.stdout
    settle(tmp_path)
    done = run(tmp_path, "reconcile")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "the file is cut short" in done.stdout
    assert "choose one of missing-row" in run(tmp_path, "simulate-legacy", "--fault", "x").stderr
