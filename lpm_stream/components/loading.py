"""What the jobs do that load companies from the table or empty their quarantine."""

import logging
import math
import time
from collections.abc import Sequence

import dagster as dg

from lpm_stream import resync
from lpm_stream.components.events import loading_metadata
from lpm_stream.components.keys import company_key
from lpm_stream.components.partitions import company_of, partition_key
from lpm_stream.components.stopping import until_told_to_stop
from lpm_stream.control import quarantine, registry
from lpm_stream.delivery.backfill import backfill
from lpm_stream.delivery.replay import Replayed, replay
from lpm_stream.errors import LpmStreamError
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.settings import Settings
from lpm_stream.stream import open_stream

log = logging.getLogger(__name__)

NOBODY = ""  # as the quarantine has it, whose rows are those that name no company
_TELL_SECONDS = 10.0


class _Teller:
    """Tells how far a load is, now and then: in the log, and as observations of the company's table.

    An observation's metadata can be seen while the run goes on, and Dagster plots it.
    """

    def __init__(self, spec: FeedSpec, context: dg.OpExecutionContext | dg.AssetExecutionContext) -> None:
        self._asset = company_key(spec)
        self._context = context
        self._told = -math.inf

    def tell(self, company: str, rows: int, total: int) -> None:
        """Notes that so many rows of a company are read."""
        if time.monotonic() - self._told > _TELL_SECONDS or rows == total:
            self._told = time.monotonic()
            log.info("company %r: %s of %s rows", company, f"{rows:,}", f"{total:,}")
            metadata = loading_metadata(rows, total)
            partition = partition_key(company)
            self._context.log_event(dg.AssetObservation(self._asset, partition=partition, metadata=metadata))


def load_now(spec: FeedSpec, context: dg.AssetExecutionContext, *, rebuild: bool) -> dg.MaterializeResult[None]:
    """Loads the company of the run's partition from the table.

    Raises:
        LpmStreamError: as `backfill` does.
    """
    teller = _Teller(spec, context)
    with open_stream(Settings.load(), spec) as stream:
        company = company_of(registry.registered(stream.store, stream.spec.name), context.partition_key)
        done = backfill(
            stream,
            company,
            rebuild=rebuild,
            go_on=until_told_to_stop,
            tell=lambda rows, total: teller.tell(company, rows, total),
        )
    metadata: dict[str, int | str] = {
        "rows": done.rows,
        "watermark_version": done.version,
        "quarantined": done.refused,
        "loaded_from": "the table, built anew" if done.replaced else "the table",
    }
    return dg.MaterializeResult(metadata=metadata)


def replay_now(spec: FeedSpec, key: str, ids: Sequence[str]) -> Replayed:
    """Replays a company's rows in quarantine, all or those with these ids.

    Raises:
        LpmStreamError: as `replay` does.
    """
    with open_stream(Settings.load(), spec) as stream:
        return replay(
            stream, company_of(registry.registered(stream.store, stream.spec.name), key), list(ids) or None
        )


def discard_now(spec: FeedSpec, company: str, ids: Sequence[str]) -> int:
    """Removes rows of a company, or of `NOBODY`, from quarantine, all or those with these ids; returns a count."""
    with open_stream(Settings.load(), spec) as stream:
        found = quarantine.entries(stream.store, spec.name, company)
        return quarantine.discard(stream.store, spec.name, [one for one in found if not ids or one.id in ids])


def resync_now(spec: FeedSpec, context: dg.OpExecutionContext) -> int:
    """Begins the feed anew at the table's newest version, and loads all companies; returns their number.

    Raises:
        LpmStreamError: if it cannot begin anew, or companies could not be loaded.
    """
    with open_stream(Settings.load(), spec) as stream:
        resync.begin_anew(stream)
        companies = registry.registered(stream.store, stream.spec.name)
        tell = _Teller(spec, context).tell
        done = list(resync.load(stream, companies, rebuild=False, go_on=until_told_to_stop, tell=tell))
    problems = [f"{one.company!r}: {one.problem}" for one in done if one.loaded is None]
    if problems or len(done) < len(companies):
        raise LpmStreamError(
            f"{len(companies) - len(done) + len(problems)} of {len(companies)} companies are not loaded; backfill "
            f"them once it is mended: {'; '.join(problems[:5])}"
        )
    return len(companies)
