"""What was published and never arrives: found where no later message could show it."""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from lpm_stream.control import progress
from lpm_stream.control.progress import Delivered
from lpm_stream.control.store import ControlStore
from lpm_stream.errors import HubError
from lpm_stream.hub.message import Hub

_PAUSE_SECONDS = 10.0


@dataclass(frozen=True)
class Published:
    """What was published for companies, and where the hub ended after that.

    Attributes:
        epoch: the epoch of these versions.
        versions: company to the last version that was published for it.
        ends: partition to the sequence number of its newest message.
    """

    epoch: int
    versions: Mapping[str, int]
    ends: Mapping[int, int]


@dataclass(frozen=True)
class Loss:
    """Changes of one company that are neither delivered nor in the hub."""

    company: str
    version: int


def read_published(store: ControlStore, feed: str, hub: Hub) -> Published:
    """What must have arrived once a deliverer has passed these ends.

    Raises:
        HubError: if a partition cannot be read.
    """
    cursor = progress.read_cursor(store, feed)
    versions = progress.read_published(store, feed)
    ends = {partition: hub.end(partition) for partition in hub.partitions()}
    return Published(cursor.epoch if cursor else 0, versions, ends)


class LossCheck:
    """Compares, now and then, what was published with what has arrived."""

    def __init__(self, store: ControlStore, feed: str, hub: Hub) -> None:
        self._store = store
        self._feed = feed
        self._hub = hub
        self._published: Published | None = None
        self._begun = 0.0

    def losses(
        self, served: Callable[[], Mapping[int, int]], delivered: Mapping[str, Delivered], parked: Collection[str]
    ) -> list[Loss]:
        """The losses among companies that are not parked, and whose messages go to partitions that are served.

        Args:
            served: asked, while something waits to be compared, for partition to the sequence number up to which
                every company is served or parked.
            delivered: company to the newest that its database has.
            parked: companies that are set aside.
        """
        if self._published is None:
            self._begin()
        published = self._published
        if published is None:
            return []
        reached = served()
        if any(reached[partition] < end for partition, end in published.ends.items() if partition in reached):
            return []
        self._published = None
        lacking = [
            Loss(company, version)
            for company, version in published.versions.items()
            if company not in parked
            and self._hub.partition_of(company) in reached
            and not _has(delivered.get(company), published.epoch, version)
        ]
        # The control store may know better by now: a backfill has loaded the company meanwhile.
        stored = progress.read_deliveries(self._store, self._feed) if lacking else {}
        return [loss for loss in lacking if not _has(stored.get(loss.company), published.epoch, loss.version)]

    def _begin(self) -> None:
        if time.monotonic() - self._begun < _PAUSE_SECONDS:
            return
        self._begun = time.monotonic()
        try:
            self._published = read_published(self._store, self._feed, self._hub)
        except HubError:
            self._published = None  # reading the partition says so; the next look may see more


def _has(found: Delivered | None, epoch: int, version: int) -> bool:
    """Whether a database has a version: versions of another epoch say nothing about it."""
    return found is not None and found.epoch == epoch and found.version >= version
