"""What Dagster is told: metadata of assets' materializations and observations.

Numbers are given as numbers, because Dagster plots them over time.
"""

from collections.abc import Mapping

import dagster as dg

from lpm_stream.components.keys import hub_key
from lpm_stream.components.source_table import TableState
from lpm_stream.components.tally import Tally
from lpm_stream.control.latency import Latencies
from lpm_stream.control.parking import Parked
from lpm_stream.control.progress import Delivered
from lpm_stream.feed.spec import FeedSpec

# The hub goes on all the time, each company as its changes come. Dagster would call a company's table out of sync
# whenever the hub has been reported after it; so all that happens in the hub is one version of it.
HUB_VERSION = dg.DataVersion("stream")

Metadata = Mapping[str, dg.MetadataValue]


def hub_tags() -> dict[str, str]:
    """Tags of the hub's materializations outside runs."""
    return {"dagster/data_version": HUB_VERSION.value}


def company_tags(spec: FeedSpec) -> dict[str, str]:
    """Tags of company tables' materializations outside runs: from which version of the hub they are."""
    hub = hub_key(spec).to_user_string()
    return {
        "dagster/code_version": spec.fingerprint,
        f"dagster/input_data_version/{hub}": HUB_VERSION.value,
        f"dagster/input_event_pointer/{hub}": "NULL",
    }


def source_metadata(state: TableState) -> Metadata:
    """Of the source table."""
    metadata: dict[str, dg.MetadataValue] = {
        "version": dg.MetadataValue.int(state.version),
        "dagster/row_count": dg.MetadataValue.int(state.rows),
        "change_data_feed": dg.MetadataValue.bool(state.cdf),
        "held_columns": dg.MetadataValue.text(", ".join(state.held_columns) or "none"),
        "table_id": dg.MetadataValue.text(state.table_id),
        "location": dg.MetadataValue.path(state.location),
    }
    if state.misfit:
        metadata["misfit"] = dg.MetadataValue.text(state.misfit)
    return metadata


def hub_metadata(tally: Tally, version: int, behind: int) -> Metadata:
    """Of the hub.

    Args:
        tally: what was published.
        version: the last version fully published.
        behind: number of versions that were still to come.
    """
    metadata: dict[str, dg.MetadataValue] = {
        "version": dg.MetadataValue.int(version),
        "versions_behind": dg.MetadataValue.int(max(behind, 0)),
        "versions": dg.MetadataValue.int(tally.versions),
        "rows": dg.MetadataValue.int(tally.changes),
        "messages": dg.MetadataValue.int(tally.messages),
        "bytes": dg.MetadataValue.int(tally.bytes),
        "quarantined": dg.MetadataValue.int(tally.quarantined),
    }
    if tally.changes:
        metadata["bytes_per_row"] = dg.MetadataValue.float(round(tally.bytes / tally.changes, 1))
    return metadata


def company_metadata(rows: int, latencies: Latencies, newest: Delivered | None) -> Metadata:
    """Of one company's table.

    Args:
        rows: number of changes that it received.
        latencies: of these changes, commit to applied.
        newest: the newest that its database has applied, None if nothing yet.
    """
    metadata: dict[str, dg.MetadataValue] = {"rows": dg.MetadataValue.int(rows)}
    for name, seconds in latencies.summary().items():
        if seconds is not None:
            metadata[f"latency_{name}_seconds"] = dg.MetadataValue.float(seconds)
    if newest is not None:
        lag = max((newest.applied_at - newest.committed_at).total_seconds(), 0.0)
        metadata["lag_seconds"] = dg.MetadataValue.float(round(lag, 3))
        metadata["watermark_version"] = dg.MetadataValue.int(newest.version)
    return metadata


def loading_metadata(rows: int, total: int) -> Metadata:
    """Of the table of a company that is being loaded: how many of its rows are read, and how many it has."""
    return {"rows_read": dg.MetadataValue.int(rows), "rows_in_all": dg.MetadataValue.int(total)}


def parked_metadata(state: Parked) -> Metadata:
    """Of the table of a company that is parked."""
    return {
        "parked_since": dg.MetadataValue.timestamp(state.since),
        "parked_because": dg.MetadataValue.text(state.reason),
        "changes_waiting": dg.MetadataValue.int(state.waiting),
        "next_try_at": dg.MetadataValue.timestamp(state.next_try_at),
        "attempts": dg.MetadataValue.int(state.attempts),
    }
