"""What a demo makes of alerts: a receiver that Apprise reaches, and one verdict of checks and alerts."""

import pytest

from lpm_stream.alerts.channels import send
from lpm_stream.alerts.message import sample
from lpm_stream.demo.receiver import CHANNEL, receiver
from lpm_stream.demo.watch import Alert, CheckResult, Seen

CHECK = "complete_against_legacy"
RED = CheckResult(CHECK, "A", passed=False, severity="ERROR")
GREEN = CheckResult(CHECK, "B", passed=True, severity="ERROR")
TOLD = Alert(f"check_failed:{CHECK}", "A", "open", 1)


def test_alerts_are_received(settings, monkeypatch):
    with receiver() as received:
        mine = settings.model_copy(update={"alert_urls": "env:MINE"})
        variables = received.environment(mine)
        assert variables["LPM_STREAM_ALERT_URLS"] == f"env:MINE {CHANNEL}"
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        send(CHANNEL, sample("orders", "http://localhost:3000"))
        assert received.titles == ["[lpm_stream orders] a sample alert"]


def test_a_fault_is_found_by_one_check_of_one_company_and_one_alert():
    assert Seen((RED, GREEN), (TOLD,)).shows(CHECK, "A")
    assert Seen((GREEN,)).well


@pytest.mark.parametrize(
    "seen",
    [
        Seen((GREEN,), ()),
        Seen((RED, GREEN), ()),
        Seen((GREEN,), (TOLD,)),
        Seen((RED, GREEN), (TOLD, TOLD)),
        Seen((RED, GREEN), (Alert(TOLD.cause, "A", "open", 0),)),
        Seen((RED, GREEN), (Alert(TOLD.cause, "A", "open", 2),)),
        Seen((RED, GREEN), (TOLD, Alert("parked", "B", "resolved", 1))),
        Seen((RED, CheckResult("fresh", "A", passed=False, severity="WARN")), (TOLD,)),
        Seen((CheckResult(CHECK, "B", passed=False, severity="ERROR"),), (TOLD,)),
    ],
)
def test_anything_less_or_more_is_not_what_was_to_be_found(seen):
    assert not seen.shows(CHECK, "A")
    assert seen.well == (seen == Seen((GREEN,), ()))
