"""What the sensors' ticks do: a drain with a deadline, and a report of what it did.

A tick says what it did as its skip reason: that is the only message that Dagster shows of a tick without runs.
"""

from datetime import UTC, datetime, timedelta

import dagster as dg

from lpm_stream.components import reports
from lpm_stream.components.events import (
    company_metadata,
    company_tags,
    hub_metadata,
    hub_tags,
    parked_metadata,
    source_metadata,
)
from lpm_stream.components.keys import companies_partitions, company_key, hub_key, source_key
from lpm_stream.components.partitions import gone_partitions, new_partitions, partition_key
from lpm_stream.components.source_table import look
from lpm_stream.components.stopping import for_seconds, until_told_to_stop
from lpm_stream.components.tally import Tally
from lpm_stream.control import leases, ledger, parking, progress
from lpm_stream.delivery.drain import Delivery
from lpm_stream.errors import HubError, LeaseLostError
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.publish.drain import Published
from lpm_stream.settings import Settings
from lpm_stream.stream import Stream, open_stream

# Storing an event takes Dagster 5 to 9 ms, and the next tick waits for it.
_REPORTS_A_TICK = 50


def publish_tick(spec: FeedSpec, context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Publishes until the tick's time is over, and reports the hub and the source table if their window is over.

    Raises:
        LpmStreamError: if the table cannot be followed or the hub does not take messages.
    """
    settings = Settings.load()
    go_on = for_seconds(settings.tick_seconds)
    with open_stream(settings, spec) as stream:
        try:
            publisher, pause = stream.publisher(), settings.poll_seconds
            done = publisher.drain(poll_seconds=pause, go_on=go_on, at_once=lambda: not until_told_to_stop())
        except LeaseLostError as error:
            return dg.SensorResult(skip_reason=str(error))
        if done.standby:
            return dg.SensorResult(skip_reason=_standby(stream, "publish"))
        now = datetime.now(UTC)
        tally = Tally.read(context.cursor).plus(done)
        events: list[dg.AssetObservation | dg.AssetMaterialization] = []
        if tally.is_due(now, timedelta(seconds=spec.reporting_window_seconds)):
            behind = done.newest_version - done.version
            state = source_metadata(look(spec, stream.table))
            published = hub_metadata(tally, done.version, behind)
            events.append(dg.AssetObservation(source_key(spec), metadata=state))
            events.append(dg.AssetMaterialization(hub_key(spec), metadata=published, tags=hub_tags()))
            tally = Tally(reported_at=now)
    return dg.SensorResult(asset_events=events, cursor=tally.model_dump_json(), skip_reason=_published(done))


def deliver_tick(spec: FeedSpec, context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Delivers until the tick's time is over, and reports companies whose window is over.

    Raises:
        HubError: if partitions of the hub cannot be read, and there is nothing else to tell.
        LpmStreamError: if the hub or the control store cannot be opened.
    """
    settings = Settings.load()
    go_on = for_seconds(settings.tick_seconds)
    with open_stream(settings, spec) as stream:
        try:
            done = stream.deliverer().drain(go_on=go_on)
        except LeaseLostError:
            done = Delivery(standby=True)
        events, cursor = _company_events(stream, context.cursor)
        requests = _partition_requests(stream, context.instance)
        what = _standby(stream, "deliver") if done.standby else _delivered(done)
    if done.problems and not events and not requests:  # a tick that fails loses both, so one that has any must not
        raise HubError("; ".join(done.problems))
    reported = [f"{len(events)} companies reported"] if events else []
    return dg.SensorResult(
        asset_events=events,
        dynamic_partitions_requests=requests,
        cursor=cursor,
        skip_reason="; ".join([what, *reported, *done.problems]),
    )


def _partition_requests(
    stream: Stream, instance: dg.DagsterInstance
) -> list[dg.AddDynamicPartitionsRequest | dg.DeleteDynamicPartitionsRequest]:
    """Brings the partitions to what the registry says."""
    partitions = companies_partitions(stream.spec)
    new, gone = new_partitions(stream, instance), gone_partitions(stream, instance)
    return [
        *([partitions.build_add_request(new)] if new else []),
        *([partitions.build_delete_request(gone)] if gone else []),
    ]


_Events = list[dg.AssetMaterialization | dg.AssetObservation]


def _company_events(stream: Stream, cursor_text: str | None) -> tuple[_Events, str]:
    now = datetime.now(UTC)
    cursor = reports.Cursor.read(cursor_text, now)
    received = ledger.read_by_minute(stream.store, stream.spec.name, cursor.since)
    window = timedelta(seconds=stream.spec.reporting_window_seconds)
    chosen, cursor = reports.choose(cursor, received, now, window, _REPORTS_A_TICK)
    newest = progress.read_deliveries(stream.store, stream.spec.name) if chosen else {}
    events: _Events = [
        dg.AssetMaterialization(
            company_key(stream.spec),
            partition=partition_key(one.company),
            metadata=company_metadata(one.rows, one.latencies, newest.get(one.company)),
            tags=company_tags(stream.spec),
        )
        for one in chosen
    ]
    if now.timestamp() - cursor.parked_at >= window.total_seconds():
        parked = parking.read_parked(stream.store, stream.spec.name).values()
        longest = sorted(parked, key=lambda one: one.since)[:_REPORTS_A_TICK]
        events += [
            dg.AssetObservation(
                company_key(stream.spec), partition=partition_key(one.company), metadata=parked_metadata(one)
            )
            for one in longest
        ]
        cursor = cursor.model_copy(update={"parked_at": int(now.timestamp())})
    return events, cursor.model_dump_json()


def _standby(stream: Stream, role: leases.Role) -> str:
    holder = leases.holders(stream.store).get(leases.lease_name(role, stream.spec.name))
    return f"standing by: {holder or 'another worker'} is at it"


def _published(done: Published) -> str:
    if not done.versions:
        return f"no new commit; the cursor is at version {done.version}"
    bad = f", {done.quarantined:,} rows quarantined" if done.quarantined else ""
    return f"published {done.versions:,} versions with {done.changes:,} changes, up to version {done.version}{bad}"


def _delivered(done: Delivery) -> str:
    if not done.changes:
        return "nothing to deliver"
    refused = f", {done.refused:,} rows quarantined" if done.refused else ""
    return f"delivered {done.changes:,} changes to {len(done.companies):,} companies{refused}"
