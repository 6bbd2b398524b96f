"""Looks at every part that a stream needs, in the order in which the data flows and one needs the other."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

from lpm_stream.alerts import channels
from lpm_stream.control import audit, registry
from lpm_stream.control.store import HEAD, ControlStore
from lpm_stream.doctor import companies
from lpm_stream.doctor.companies import Told
from lpm_stream.doctor.outcome import NothingThereError, Outcome, examine
from lpm_stream.errors import LpmStreamError
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.legacy.location import open_location
from lpm_stream.settings import Settings
from lpm_stream.source.delta import DeltaSource
from lpm_stream.source.snapshot import Snapshot
from lpm_stream.stream import open_hub

_SECONDS = 20.0  # what a store far away may take; several attempts of its client among it
_STORE = "control store"


def doctor(settings: Settings, spec: FeedSpec, tell: Told) -> Iterator[Outcome]:
    """Looks at every part; one that fails does not keep the next from being looked at, unless that needs it.

    Args:
        settings: where everything is.
        spec: the feed.
        tell: called with the number of company databases looked at, and of all.
    """
    home = _examine("home", partial(_home, settings), "check --dir or LPM_STREAM_HOME")
    yield home
    if home.verdict == "failed":
        return
    yield _examine(
        "source table", partial(_table, settings, spec), "check LPM_STREAM_TABLES_URL and its credentials"
    )
    yield _examine("change data feed", partial(_feed, settings, spec), "see the source table")
    yield _examine(
        "hub", partial(_hub, settings), "check LPM_STREAM_HUB_URL, and that it can be reached from here"
    )
    with ExitStack() as stack:
        opened: list[ControlStore] = []
        store = _examine(_STORE, partial(_open, settings, opened), "check LPM_STREAM_CONTROL_URL")
        yield store
        if store.verdict == "ok":
            stack.enter_context(closing(opened[0]))
        yield from _of_store(settings, spec, opened[0] if store.verdict == "ok" else None, tell)
    yield _examine(
        "legacy files", partial(_legacy, settings, spec), "check LPM_STREAM_LEGACY_URL, its host key and key"
    )
    yield from _channels(settings)
    yield _examine("Dagster", partial(_dagster, spec), "start dagster-daemon with this DAGSTER_HOME, or the relay")


def _examine(part: str, look: Callable[[], str], fix: str) -> Outcome:
    return examine(part, look, fix=fix, seconds=_SECONDS)


def _home(settings: Settings) -> str:
    if not settings.home.is_dir():
        raise LpmStreamError(f"there is no directory {settings.home}")
    return str(settings.home)


def _table(settings: Settings, spec: FeedSpec) -> str:
    location = settings.table_location(spec.source_table)
    return f"{location} is at version {Snapshot(spec, location).version} and fits the contract"


def _feed(settings: Settings, spec: FeedSpec) -> str:
    source = DeltaSource(spec, settings.table_location(spec.source_table))
    return f"is on, through version {source.newest_version()}"


def _hub(settings: Settings) -> str:
    with closing(open_hub(settings)) as hub:
        partitions = hub.partitions()
        for partition in partitions:
            hub.end(partition)
    return f"{len(partitions)} partitions can be read"


def _open(settings: Settings, opened: list[ControlStore]) -> str:
    opened.append(ControlStore(settings.control_url))
    return f"can be written, at schema {HEAD}"


def _of_store(settings: Settings, spec: FeedSpec, store: ControlStore | None, tell: Told) -> Iterator[Outcome]:
    if store is None:
        yield from (
            Outcome(part, "skipped", f"the {_STORE} has failed") for part in ("audit", "company databases")
        )
        return
    yield _examine("audit", partial(_audit, store), "ask who may write to the control store; keep a copy of it")
    try:
        served = registry.served(store, settings, spec.name)
    except LpmStreamError as error:
        yield Outcome("company databases", "failed", str(error), "see the control store")
        return
    if not served:
        yield Outcome("company databases", "skipped", "no company is registered: lpm-stream companies add")
    yield from companies.look_at_all(spec, served, tell)


def _audit(store: ControlStore) -> str:
    verified = audit.verify(store)
    if verified.problem:
        raise LpmStreamError(f"the audit is not whole: {verified.problem}")
    return f"{verified.head.number:,} entries, whole"


def _legacy(settings: Settings, spec: FeedSpec) -> str:
    if spec.legacy is None:
        raise NothingThereError("the feed declares no legacy files")
    default = Path(settings.legacy_url)
    if default == settings.home / "legacy" and not default.exists():
        raise NothingThereError("LPM_STREAM_LEGACY_URL is not set, and there are none in the home directory")
    with open_location(settings) as location:
        if not location.files.exists(location.root):
            raise LpmStreamError(f"there is no folder {location.root}")
        location.entries(1)
        return f"{location.root} can be listed"


def _channels(settings: Settings) -> Iterator[Outcome]:
    try:
        references = channels.references(settings.alert_urls)
    except LpmStreamError as error:
        yield Outcome("alerts", "failed", str(error), "correct LPM_STREAM_ALERT_URLS")
        return
    if not references:
        yield Outcome(
            "alerts", "skipped", "nobody is told of what goes wrong: LPM_STREAM_ALERT_URLS names no channel"
        )
    for reference in references:
        look = partial(channels.check, reference)
        yield _examine(f"alerts to {reference}", look, "correct it; then lpm-stream alerts test sends a sample")


def _dagster(spec: FeedSpec) -> str:
    from lpm_stream.doctor.dagster import look  # noqa: PLC0415 - slow, and many streams run without Dagster

    return look(spec)
