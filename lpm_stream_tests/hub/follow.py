"""Reads a hub as the drain does, through errors, until it has seen everything."""

import time
from collections.abc import Sequence

from lpm_stream.errors import HubError, HubGapError
from lpm_stream.hub.message import Hub, Received

_GIVE_UP_SECONDS = 60


def follow(hub: Hub, companies: Sequence[str], versions: int) -> dict[str, list[int]]:
    """Each company's versions in the order in which they came first, until there are `versions` of every company.

    Raises:
        HubGapError: if the hub says that messages are missing.
    """
    after = dict.fromkeys(hub.partitions(), 0)
    seen: dict[str, dict[int, None]] = {company: {} for company in companies}
    give_up = time.monotonic() + _GIVE_UP_SECONDS
    while any(len(found) < versions for found in seen.values()) and time.monotonic() < give_up:
        for partition in after:
            ones = _next(hub, partition, after[partition])
            if not ones:
                time.sleep(0.01)  # a drain pauses as well; without, a writer's thread gets no turn
            for one in ones:
                assert one.sequence_number > after[partition]
                after[partition] = one.sequence_number
                seen[one.message.company][one.message.version] = None
    return {company: list(found) for company, found in seen.items()}


def _next(hub: Hub, partition: int, after: int) -> list[Received]:
    try:
        return hub.receive(partition, after, 50)
    except HubGapError:
        raise
    except HubError:
        return []  # the next call goes on from the same place
