"""The real demo with a fault: minutes of real Dagster, so only where all tests are asked for."""

import json
import os
import subprocess
import sys
from pathlib import Path

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


@pytest.mark.skipif(not {"LPM_TEST_ALL", "CI"} & os.environ.keys(), reason="takes five minutes: make test-all")
@pytest.mark.timeout(900)
def test_a_fault_is_found_by_one_check_of_one_company_and_one_alert(tmp_path: Path):
    out = tmp_path / "out.json"
    asked = ["--for", "60", "--fault", "missing-row", "--companies", "2", "--rate", "50"]
    places = ["--port", str(free_port()), "--dir", str(tmp_path / "home"), "--json", str(out)]
    command = [sys.executable, "-m", "lpm_stream", "demo", *asked, *places]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(out.read_text())
    red = ("complete_against_legacy", "COMPANY-01")
    checks = {(one["name"], one["company"]): one["passed"] for one in result["checks"]}
    assert checks == {(name, company): (name, company) != red for name in CHECKS for company in COMPANIES}
    [alert] = result["alerts"]
    assert alert == {"cause": f"check_failed:{red[0]}", "company": red[1], "state": "open", "sent": 1}
    [fault] = result["faults"]
    assert (fault["fault"], fault["company"], fault["check"]) == ("missing-row", red[1], red[0])
    assert (fault["found"], len(fault["key"])) == (True, 1)
