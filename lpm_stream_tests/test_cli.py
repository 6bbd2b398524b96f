"""What the command line says to wrong input: one line, and an exit code."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def run(home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lpm_stream", *arguments, "--dir", str(home)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"COLUMNS": "200"} | variables,
    )


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        (("publish",), {}, "no Delta table at"),
        (("publish", "--feed", "nope"), {}, "choose one of tdr with --feed"),
        (("verify", "--company", "[/x]"), {}, "company '[/x]' is not registered"),
        (("publish",), {"LPM_STREAM_SLOTS": "abc"}, "LPM_STREAM_SLOTS: Input should be a valid integer"),
        (("publish",), {"LPM_STREAM_HUB_URL": "amqp:x"}, "is not supported; use local:DIRECTORY"),
        (("companies", "add", ""), {}, "must be 1 to 450 characters"),
    ],
)
def test_errors_are_one_line(tmp_path, arguments, variables, message):
    done = run(tmp_path, *arguments, **variables)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_looking_creates_nothing(tmp_path):
    home = tmp_path / "mistyped"
    done = run(home, "status")
    assert done.returncode == 2
    assert "there is nothing at" in done.stderr
    assert not home.exists()


def test_odd_ids_are_shown_as_they_are(tmp_path):
    for company in ("[bold]X", "[/red]", "it's"):
        assert run(tmp_path, "companies", "add", company).returncode == 0
    assert run(tmp_path, "companies", "list").stdout.splitlines() == ["[/red]", "[bold]X", "it's"]
    assert run(tmp_path, "companies", "add", "it's").returncode == 1


@pytest.mark.parametrize("arguments", [["--help"], ["verify", "--help"], ["quarantine", "--help"]], ids=str)
def test_help_loads_nothing_that_only_the_work_needs(arguments):
    show = "import sys; from lpm_stream.cli import main\ntry: main()\nexcept SystemExit: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", show, *arguments], capture_output=True, text=True, check=True)
    heavy = {"polars", "pyarrow", "sqlalchemy", "deltalake", "duckdb", "dagster", "numpy", "pandas"}
    assert heavy.isdisjoint(done.stdout.splitlines()[-1].split())


def test_a_fault_needs_a_minute_of_traffic(tmp_path):
    done = run(tmp_path, "demo", "--fault", "late-file", "--for", "20")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--fault needs traffic --for at least 60 seconds" in done.stderr
    done = run(tmp_path, "demo", "--fault", "nothing-row", "--for", "90")
    assert (done.returncode, "choose one of missing-row" in done.stderr) == (2, True)
    assert list(tmp_path.iterdir()) == []
