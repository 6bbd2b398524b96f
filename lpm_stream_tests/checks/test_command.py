"""The command."""

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path


def run(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lpm_stream", *arguments, "--dir", str(home)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"COLUMNS": "200", "PYTHONWARNINGS": "error"},
    )


def test_check(tmp_path):
    assert run(tmp_path, "simulate", "--for", "1", "--companies", "2").returncode == 0
    assert run(tmp_path, "publish").returncode == 0
    assert run(tmp_path, "deliver").returncode == 0
    assert "is not registered" in run(tmp_path, "check", "--company", "nobody").stderr
    done = run(tmp_path, "check", "--json", str(tmp_path / "out.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "out.json").read_text())
    assert {(one["company"], one["passed"]) for one in results} == {("COMPANY-01", True), ("COMPANY-02", True)}
    assert len(results) == 14
    with closing(sqlite3.connect(tmp_path / "companies" / "COMPANY-02.db")) as connection:
        connection.execute("DELETE FROM tdr WHERE rowid = 1")
        connection.commit()
    assert run(tmp_path, "check", "--company", "COMPANY-01").returncode == 0
    done = run(tmp_path, "check")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "COMPANY-02: complete_against_source: fault missing; key " in done.stdout
