"""The real demo: minutes of real Dagster, so only where all tests are asked for."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lpm_stream_tests.alerts.servers import free_port

CHECKS = {
    "not_parked",
    "nothing_quarantined",
    "fresh",
    "latency_slo",
    "complete_against_legacy",
    "sooner_than_legacy",
    "complete_against_source",
}
COMPANIES = {"COMPANY-01", "COMPANY-02"}


def demo(home: Path, *asked: str) -> Any:
    """What a demo of two companies has found; it ends well."""
    places = ["--port", str(free_port()), "--dir", str(home / "home"), "--json", "-"]
    command = [sys.executable, "-m", "lpm_stream", "demo", *asked, "--companies", "2", "--rate", "50", *places]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(not {"LPM_TEST_ALL", "CI"} & os.environ.keys(), reason="takes a minute: make test-all")
@pytest.mark.timeout(300)
def test_a_short_demo_ends_once_everything_was_checked(tmp_path: Path):
    result = demo(tmp_path, "--for", "5")
    checks = {(one["name"], one["company"]): one["passed"] for one in result["checks"]}
    assert checks == {(name, company): True for name in CHECKS for company in COMPANIES}
    assert result["alerts"] == []


@pytest.mark.skipif(not {"LPM_TEST_ALL", "CI"} & os.environ.keys(), reason="takes five minutes: make test-all")
@pytest.mark.timeout(900)
def test_a_fault_is_found_by_one_check_of_one_company_and_one_alert(tmp_path: Path):
    result = demo(tmp_path, "--for", "60", "--fault", "missing-row")
    red = ("complete_against_legacy", "COMPANY-01")
    checks = {(one["name"], one["company"]): one["passed"] for one in result["checks"]}
    assert checks == {(name, company): (name, company) != red for name in CHECKS for company in COMPANIES}
    [alert] = result["alerts"]
    assert alert == {"cause": f"check_failed:{red[0]}", "company": red[1], "state": "open", "sent": 1}
    [fault] = result["faults"]
    assert (fault["fault"], fault["company"], fault["check"]) == ("missing-row", red[1], red[0])
    assert (fault["found"], len(fault["key"])) == (True, 1)
