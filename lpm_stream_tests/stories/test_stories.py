"""The three stories: add a customer, backfill a company, look into a failed check."""

import os
import re
import shlex
from urllib.parse import urlencode

import pytest

from lpm_stream_tests.stories import ui as browser
from lpm_stream_tests.stories.conftest import NEW, Demo
from lpm_stream_tests.stories.ui import Ui

JOBS = "/locations/lpm_stream/jobs"
TABLE = "/assets/companies/tdr"
CONFIG = f"""\
ops:
  onboard:
    config:
      company: {NEW}
      name: ACME Public Safety
      groups: [base]
      contacts: [noc@acme.example]
"""
CHECK, WRONG = "complete_against_legacy", "COMPANY-01"


@pytest.mark.skipif(not {"LPM_TEST_ALL", "CI"} & os.environ.keys(), reason="takes three minutes: make test-all")
@pytest.mark.timeout(900)
def test_an_operators_stories(demo: Demo):
    assert browser.CHROMIUM, "needs a browser: apt-get install chromium"
    with browser.opened(demo.url) as ui:
        add_a_customer(ui, demo)
        backfill_a_company(ui, demo)
        look_into_a_failed_check(ui, demo)
        look_around(ui)


def look_around(ui: Ui) -> None:
    """The asset graph."""
    ui.page.set_viewport_size({"width": 1600, "height": 640})
    ui.go("/asset-groups")
    ui.press("Hide navigation")
    for name in ("tdr_streaming", "tdr_messages", "tdr", "tdr_files", "tdr_health"):
        ui.sees(re.compile(rf"^{name}$"))
    ui.picture("graph")


def add_a_customer(ui: Ui, demo: Demo) -> None:
    """From the launchpad: its help, the config, the run's steps, a clean audit."""
    page = ui.page
    ui.go(f"{JOBS}/onboard_company/playground")
    ui.sees('Missing required config entry "company"')
    page.locator(".CodeMirror-lines").first.click()
    page.keyboard.press("Control+A")
    page.keyboard.insert_text(CONFIG)
    ui.sees("No errors")
    page.locator(".CodeMirror-line", has_text="company:").click()
    ui.sees("Its name, for people.")
    ui.picture("onboard")
    ui.press("Launch Run")
    page.wait_for_url("**/runs/*")
    ui.sees("RUN_SUCCESS")
    for step in ("database: ", "registry: ", "partition: ", "history: ", "stream: ", "checks: "):
        ui.sees(re.compile(rf"^{step}"))
    ui.picture("onboarded")
    ui.comes_to_see(partition(NEW), page.get_by_text(NEW, exact=True).filter(visible=True))
    assert demo.command("verify", "--company", NEW).splitlines()[-1] == "clean"


def backfill_a_company(ui: Ui, demo: Demo) -> None:
    """The job's page, one partition, the run's log, the partition's page."""
    page = ui.page
    ui.go(f"{JOBS}/backfill_tdr")
    ui.press("Materialize")
    ui.sees("Select a partition or create one").click()
    page.get_by_role("menuitem", name=NEW).click()
    page.keyboard.press("Escape")
    launch = page.get_by_role("button", name="Launch 1 run")
    launch.wait_for()
    ui.picture("backfill")
    with page.expect_response(lambda answer: "mutation Launch" in (answer.request.post_data or "")):
        launch.click()
    ui.comes_to_see(partition(NEW), page.get_by_text("loaded_from"))
    ui.picture("backfilled")
    page.get_by_role("link", name=re.compile("^[0-9a-f]{8}$")).first.click()
    ui.sees(re.compile(rf"company '{NEW}': (\d+) of \1 rows"))


def look_into_a_failed_check(ui: Ui, demo: Demo) -> None:
    """The check's page, what it found, and what to do next."""
    page = ui.page
    query = urlencode({"view": "checks", "checkDetail": CHECK})
    history = page.get_by_text("Execution history", exact=True)
    failed = page.get_by_role("row").filter(has_text=WRONG).filter(has_text="Failed")
    ui.go(f"{TABLE}_health?{query}")
    history.click()
    failed.first.wait_for(timeout=3 * browser.PATIENCE_MS)
    ui.picture("checks")
    failed.first.get_by_role("button").last.click()
    found = page.get_by_role("dialog")
    ui.sees(f"{WRONG}/TDR_{WRONG}_", within=found)
    command = ui.sees(re.compile("^lpm-stream verify"), within=found)
    ui.sees("docs/operations.md", within=found)
    ui.picture("failed")
    words = shlex.split(command.inner_text())
    assert demo.command(*words[1:]).splitlines()[-1] == "clean"  # so it is the file that is wrong
    ui.go(f"{TABLE}_health?{query}")
    history.wait_for()
    page.get_by_role("tab", name="Partitions").last.click()  # the first is the asset's
    ui.sees(re.compile(r"^Failed \([1-9]"))  # on a machine with too much to do another file may be overdue
    ui.picture("health")


def partition(company: str) -> str:
    """A company's page."""
    return f"{TABLE}?{urlencode({'view': 'partitions', 'partition': company})}"
