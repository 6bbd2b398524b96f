"""One feed with its parts opened: what every caller of the drains starts from."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from lpm_stream import secret
from lpm_stream.control import registry
from lpm_stream.control.registry import Served
from lpm_stream.control.store import ControlStore
from lpm_stream.delivery.database import CompanyDatabase, open_database
from lpm_stream.delivery.drain import Deliverer
from lpm_stream.errors import LpmStreamError
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.hub.closed import ClosedHub
from lpm_stream.hub.local import LocalHub
from lpm_stream.hub.message import Hub
from lpm_stream.publish.drain import Publisher
from lpm_stream.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stream:
    """A feed, its settings, its control store and its hub."""

    spec: FeedSpec
    settings: Settings
    store: ControlStore
    hub: Hub

    @property
    def table(self) -> str:
        """Path or URL of the source table."""
        return self.settings.table_location(self.spec.source_table)

    def publisher(self, first_version: int = 0) -> Publisher:
        """The publish drain; `first_version` is where a feed begins that was never published."""
        return Publisher(self.spec, self.table, self.hub, self.store, first_version)

    def deliverer(self) -> Deliverer:
        """The deliver drain."""
        return Deliverer(self.spec, self.hub, self.store, self.settings)

    def served(self, company: str) -> Served:
        """A company that is served.

        Raises:
            LpmStreamError: if it is not registered for this feed.
        """
        found = registry.served(self.store, self.settings, self.spec.name).get(company)
        if found is None:
            raise LpmStreamError(f"company {company!r} is not registered: lpm-stream companies add")
        return found

    def open_database(self, served: Served) -> CompanyDatabase:
        """Opens a company's database, as `lpm_stream.delivery.database` does."""
        return open_database(self.spec, served.company, served.database, served.entitlement)

    @contextmanager
    def company_database(self, company: str) -> Iterator[CompanyDatabase]:
        """A registered company's database.

        Raises:
            LpmStreamError: if the company is not registered, or as `open_database` does.
        """
        with closing(self.open_database(self.served(company))) as database:
            yield database


@contextmanager
def open_stream(settings: Settings, spec: FeedSpec, *, needs_hub: bool = True) -> Iterator[Stream]:
    """Opens what a feed's drains need, and closes it afterwards.

    Args:
        settings: where everything is.
        spec: the feed.
        needs_hub: False: a hub that cannot be opened says why when it is asked something, and not here.

    Raises:
        LpmStreamError: if the control store or the hub cannot be opened.
    """
    with _without_causes(), ExitStack() as stack:
        store = ControlStore(settings.control_url)
        stack.callback(store.close)
        hub = open_hub(settings) if needs_hub else _open_or_closed_hub(settings)
        stack.callback(hub.close)
        yield Stream(spec, settings, store, hub)


@contextmanager
def _without_causes() -> Iterator[None]:
    """Drops what libraries said from our own errors: it may quote rows, and Dagster keeps it; --debug shows it."""
    try:
        yield
    except LpmStreamError as error:
        if log.isEnabledFor(logging.DEBUG):
            raise
        raise error from None


def open_hub(settings: Settings) -> Hub:
    """Opens the hub that the settings name.

    Raises:
        LpmStreamError: if it is of a kind that is not supported.
        HubError: if it cannot be opened.
    """
    kind, _, location = secret.resolved(settings.hub_url, "LPM_STREAM_HUB_URL").partition(":")
    if kind == "local":
        if not location:
            raise LpmStreamError("LPM_STREAM_HUB_URL: local: names no directory; give local:DIRECTORY")
        return LocalHub(Path(location), settings.hub_partitions, settings.hub_retention_hours)
    if kind == "eventhubs":
        return _event_hubs(location)
    if kind == "kafka":
        return _kafka(location, settings.hub_partitions)
    raise LpmStreamError(
        "LPM_STREAM_HUB_URL: this kind of hub is not supported; use local:DIRECTORY, eventhubs:env:NAME, "
        "eventhubs://NAMESPACE/HUB or kafka://HOST:PORT/TOPIC"
    )


def _open_or_closed_hub(settings: Settings) -> Hub:
    try:
        return open_hub(settings)
    except LpmStreamError as error:
        return ClosedHub(error)


def _event_hubs(location: str) -> Hub:
    try:
        from lpm_stream.hub.event_hubs import EventHubsHub  # noqa: PLC0415 - only where it is used
        from lpm_stream.hub.event_hubs_client import access  # noqa: PLC0415

        return EventHubsHub(access(location))
    except ImportError as error:
        raise _missing(error, "event-hubs") from error


def _kafka(location: str, partitions: int) -> Hub:
    try:
        from lpm_stream.hub.kafka import KafkaHub  # noqa: PLC0415 - only where it is used
        from lpm_stream.hub.kafka_topic import topic  # noqa: PLC0415

        return KafkaHub(topic(location), partitions)
    except ImportError as error:
        raise _missing(error, "kafka") from error


def _missing(error: ImportError, extra: str) -> LpmStreamError:
    return LpmStreamError(f"package {error.name} is missing for this hub: pip install 'lpm-stream[{extra}]'")
