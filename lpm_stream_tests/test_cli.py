"""What the command line says to wrong input: one line, and an exit code."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lpm_stream.status
from lpm_stream.cli import main
from lpm_stream.cli.drains import _published_line
from lpm_stream_tests.example import append, orders, publish


def run(home: Path, *arguments: str, typed: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lpm_stream", *arguments, "--dir", str(home)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        input=typed,
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


def broken(row: object) -> None:
    raise KeyError(row)


def test_a_defect_is_one_line_that_quotes_nothing(stream, monkeypatch, capsys):
    monkeypatch.setattr(lpm_stream.status, "_companies", lambda *_: broken("a call record"))
    asked = ["status", "--dir", str(stream.settings.home), "--feed", "tdr"]
    monkeypatch.setattr(sys, "argv", ["lpm-stream", *asked])
    with pytest.raises(SystemExit, match="4"):
        main()
    shown = capsys.readouterr()
    assert shown.out == ""
    assert re.fullmatch(
        r"error: KeyError in lpm_stream/status\.py, line \d+: a defect of lpm_stream; lpm-stream --debug COMMAND "
        r"shows more\n",
        shown.err,
    )
    monkeypatch.setattr(sys, "argv", ["lpm-stream", "--debug", *asked])
    with pytest.raises(KeyError, match="a call record"):
        main()


def test_a_package_that_is_not_installed_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "numpy", None)
    monkeypatch.delitem(sys.modules, "lpm_stream.source.simulate", raising=False)
    monkeypatch.setattr(sys, "argv", ["lpm-stream", "simulate", "--dir", str(tmp_path)])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "package numpy is not installed: pip install 'lpm-stream[all]'" in capsys.readouterr().err


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
    assert run(tmp_path, "companies", "add", "it's").returncode == 2


def test_tidy_works_on_the_control_store_and_on_dagster_where_there_is_one(tmp_path):
    assert run(tmp_path / "mistyped", "tidy").returncode == 2
    assert run(tmp_path, "companies", "add", "A").returncode == 0
    done = run(tmp_path, "tidy", DAGSTER_HOME="")
    assert (done.returncode, done.stderr) == (0, "")
    assert "0 minutes of the ledger" in done.stdout
    assert "DAGSTER_HOME is not set" in done.stdout
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}")
    done = run(tmp_path, "tidy", DAGSTER_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "0 runs, 0 events and 0 check evaluations" in done.stdout


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


def test_companies_are_declared_in_a_file(tmp_path):
    file = tmp_path / "companies.yaml"
    file.write_text("companies:\n  - id: ACME\n    groups: [sipreq]\n  - id: it's\n    state: paused\n")
    apply = ("companies", "apply", "-f", str(file))
    shown = run(tmp_path, *apply, "--dry-run")
    assert shown.returncode == 0, shown.stderr
    added = ["+ ACME", "  + groups: [base, sipreq]", "+ it's", "  + groups: [base]", "  + state: paused"]
    assert shown.stdout.splitlines() == added
    assert run(tmp_path, "companies", "list").stdout == ""
    assert run(tmp_path, *apply, "--yes").returncode == 0
    assert run(tmp_path, *apply, "--yes").stdout == "nothing to change\n"
    every = run(tmp_path, *apply, "--every", "--yes")
    assert every.returncode == 0, every.stderr
    assert "company 'ACME': table tdr has the columns of base, sipreq\n" in every.stdout
    file.write_text(run(tmp_path, "companies", "export").stdout.replace("state: paused", "state: active"))
    assert run(tmp_path, *apply, typed="n\n").returncode == 1
    assert "state: paused" in run(tmp_path, "companies", "show", "it's").stdout
    changed = run(tmp_path, *apply, typed="y\n").stdout.splitlines()
    assert [line.strip() for line in changed] == ["~ it's", "- state: paused", 'company "it\'s": changed']
    assert "state: paused" not in run(tmp_path, "companies", "show", "it's").stdout
    file.write_text("companies:\n  - id: ACME\n    grups: [base]\n")
    wrong = run(tmp_path, *apply)
    assert wrong.returncode == 2
    assert "companies.yaml:3: grups: is not a field here" in wrong.stderr


def test_data_is_dropped_with_the_typed_name_only(tmp_path):
    assert run(tmp_path, "companies", "add", "ACME").returncode == 0
    wrong = run(tmp_path, "companies", "remove", "ACME", "--drop-data", typed="acme\n")
    assert wrong.returncode == 2
    assert "that is not its id: nothing was done" in wrong.stderr
    assert run(tmp_path, "companies", "list").stdout == "ACME\n"
    assert run(tmp_path, "companies", "remove", "ACME", "--drop-data", typed="ACME\n").returncode == 0
    assert run(tmp_path, "companies", "list").stdout == ""
    assert run(tmp_path, "companies", "add", "ACME").returncode == 0


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([], "stopped before the table was looked at: nothing was published"),
        ([True], "stopped 3 versions behind the table's newest, 2: the cursor is at version -1"),
        ([True, True], "published 1 versions up to 0: .*; stopped 2 versions behind the table's newest, 2"),
        ([True] * 9, r"published 3 versions up to 2: 2 changes in 2 messages, \d+ bytes a change"),
    ],
)
def test_a_publish_that_was_stopped_says_so(stream, answers, said):
    for key in "12":
        append(stream.table, orders([key], "A"))
    given = iter(answers)
    done = stream.publisher().drain(poll_seconds=0.01, go_on=lambda: next(given, False), until_caught_up=True)
    assert re.fullmatch(said, _published_line(done))


def test_a_publish_that_had_nothing_to_do_says_so(stream):
    publish(stream)
    assert _published_line(publish(stream)) == "nothing to publish: the cursor is at version 0, the table's newest"
