"""A feed with legacy files of the tests' own, delivered companies, and files of them."""

import json
import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from lpm_stream.feed.legacy import LegacyFormat
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.legacy.location import open_location
from lpm_stream.legacy.names import Period, file_name
from lpm_stream.legacy.reconcile import look, reconcile
from lpm_stream.legacy.report import Reconciliation
from lpm_stream.legacy.write import content
from lpm_stream.stream import Stream
from lpm_stream_tests import example

FORM = LegacyFormat(
    file_name="{company}/orders_{company}_{start}{issue}.csv",
    period="hourly",
    time_zone="Europe/Berlin",
    delimiter=";",
    trailer="END;{count}",
    columns={
        "NO": "id",
        "AT": "ordered_at",
        "FILLER": None,
        "AMOUNT": "amount",
        "NOTE": "note",
        "WEIGHT": "weight",
        "COUNT": "count",
        "PAID": "paid",
        "DUE": "due",
    },
    true_text="yes",
    false_text="no",
    null_text="-",
    timestamp_format="%d.%m.%Y %H:%M:%S%.3f",
    date_format="%d.%m.%Y",
    grace_seconds=600,
    settle_seconds=0,
    straddle_seconds=10,
)
SPEC = example.SPEC.model_copy(update={"legacy": FORM})
HOUR = Period(example.START, example.START + timedelta(hours=1))
NEXT = Period(HOUR.end, HOUR.end + timedelta(hours=1))
LATER = HOUR.end + timedelta(minutes=30)  # after the grace of the hour's file


def with_form(**changes: Any) -> FeedSpec:
    """The feed with another format."""
    return SPEC.model_copy(update={"legacy": FORM.model_copy(update=changes)})


def commit_at(table: str, instant: datetime) -> None:
    """Lets the newest commit of a table be one of that instant."""
    log = max(Path(table, "_delta_log").glob("*.json"))
    actions = [json.loads(line) for line in log.read_text().splitlines()]
    for action in actions:
        if "commitInfo" in action:
            action["commitInfo"]["timestamp"] = int(instant.timestamp() * 1000)
    log.write_text("".join(json.dumps(action) + "\n" for action in actions))


def commit(stream: Stream, rows: pl.DataFrame, at: datetime | None = None) -> None:
    """Appends rows to the source, in a commit of that instant: within the hour by default."""
    example.append(stream.table, rows)
    commit_at(stream.table, at or HOUR.start + timedelta(minutes=1))


def deliver(stream: Stream) -> None:
    """Publishes and delivers everything."""
    example.publish(stream)
    example.deliver(stream)


def put(stream: Stream, company: str, rows: pl.DataFrame | bytes, period: Period = HOUR, issue: int = 0) -> str:
    """Puts a file in place, which is written a minute after its period's end; returns its path."""
    form = stream.spec.legacy
    assert form is not None
    body = rows if isinstance(rows, bytes) else content(stream.spec, form, rows)
    path = file_name(form, company, period, issue)
    with open_location(stream.settings) as location, location.writing(path) as file:
        file.write(body)
    touch(stream, path, period.end + timedelta(minutes=1 + issue))
    return path


def touch(stream: Stream, path: str, at: datetime) -> None:
    """Lets a local file be written at that instant."""
    os.utime(Path(stream.settings.legacy_url, path), (at.timestamp(), at.timestamp()))


def compare(stream: Stream, now: datetime = LATER, **options: Any) -> list[Reconciliation]:
    """Compares all files there are."""
    with open_location(stream.settings) as place:
        return reconcile(stream, place, look(stream, place, now), now, **options)


def one(stream: Stream, now: datetime = LATER) -> Reconciliation:
    """The only result."""
    [result] = compare(stream, now)
    return result


def keys(result: Reconciliation) -> dict[str, list[str]]:
    """The examples' keys per kind."""
    return {kind: [str(example.key[0]) for example in found] for kind, found in result.examples.items()}
