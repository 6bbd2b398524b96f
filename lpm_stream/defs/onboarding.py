"""Companies taken in from Dagster, whatever feeds they receive."""

import dagster as dg

from lpm_stream.components.onboarding import onboard_job, onboard_sensor
from lpm_stream.feed.load import load_feeds


@dg.definitions
def onboarding() -> dg.Definitions:
    """The job and the sensor."""
    specs = list(load_feeds().values())
    job = onboard_job(specs)
    return dg.Definitions(jobs=[job], sensors=[onboard_sensor(specs, job)])
