"""What people read."""

import pytest

from lpm_stream.alerts.message import digest
from lpm_stream.alerts.outbox import Notification


@pytest.mark.parametrize(
    ("events", "event"),
    [
        (("opened", "resolved"), "opened"),
        (("resolved", "opened", "reminder"), "opened"),
        (("resolved", "reminder", "updated"), "updated"),
        (("resolved", "resolved"), "resolved"),
    ],
)
def test_many_in_one_are_as_grave_as_the_gravest(events, event):
    several = [Notification(one, f"title {one}", f"body {one}") for one in events]
    done = digest("f", several)
    assert done.event == event
    assert done.title == f"[lpm_stream f] {len(events)} alerts, the first: title {events[0]}"
    assert all(one.body in done.body for one in several)
