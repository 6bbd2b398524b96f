"""What `--json` writes is JSON and nothing else, and where it cannot be written that is said at once."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lpm_stream.cli.app import app
from lpm_stream_tests.test_cli import run

# Every command that has the option and takes no minutes; of the demo, its own tests read stdout.
WORK = (
    "simulate --for 0",
    "publish",
    "deliver",
    "backfill COMPANY-01",
    "resync --company COMPANY-01",
    "simulate-legacy",
)
LOOKS = (
    "status",
    "doctor",
    "check",
    "verify",
    "reconcile",
    "history",
    "audit",
    "alerts list",
    "companies list",
    "quarantine list",
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a table and its companies."""
    home = tmp_path_factory.mktemp("home")
    done = run(home, "simulate", "--for", "0", "--companies", "2")
    assert done.returncode == 0, done.stderr
    return home


@pytest.mark.parametrize("command", WORK)
def test_stdout_is_json_and_lines_for_people_are_elsewhere(home, command):
    done = run(home, *command.split(), "--json", "-")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) is not None
    assert done.stderr


@pytest.mark.parametrize("command", LOOKS)
def test_what_looks_says_nothing_but_json(home, command):
    done = CliRunner().invoke(app, [*command.split(), "--dir", str(home), "--json", "-"])
    assert done.exit_code in {0, 1}, done.output
    assert json.loads(done.stdout) is not None


def test_lines_for_people_are_beside_a_file(home, tmp_path):
    done = run(home, "backfill", "COMPANY-01", "--json", str(tmp_path / "out.json"))
    assert "company 'COMPANY-01' is loaded" in done.stdout
    assert json.loads((tmp_path / "out.json").read_text())[0]["company"] == "COMPANY-01"


@pytest.mark.parametrize(
    ("command", "target"),
    [("demo --for 60", "no/such/out.json"), ("publish", "."), ("resync", "no/such/out.json")],
)
def test_a_file_that_cannot_be_written_is_known_before_the_work(tmp_path, command, target):
    done = run(tmp_path, *command.split(), "--json", str(tmp_path / target))
    assert (done.returncode, done.stdout) == (2, "")
    assert "cannot be written: name a file in a directory that exists" in done.stderr
    assert not (tmp_path / "tables").exists()
