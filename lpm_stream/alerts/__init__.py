"""Alerts: what is wrong, told once to the people who can mend it. Nothing here knows Dagster."""
