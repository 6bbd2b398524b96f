"""A process that reads a hub until it has seen enough, and says what it saw."""

import json
import sys
import time
from pathlib import Path

from lpm_stream.hub.local import LocalHub


def read(directory: Path, wanted: int) -> dict[str, list[int]]:
    """Each company's versions, in the order in which they were read."""
    hub = LocalHub(directory, 2, 1)
    after = dict.fromkeys(hub.partitions(), 0)
    seen: dict[str, list[int]] = {}
    give_up = time.monotonic() + 60
    while sum(after.values()) < wanted and time.monotonic() < give_up:
        for partition in after:
            for one in hub.receive(partition, after[partition], 7):
                seen.setdefault(one.message.company, []).append(one.message.version)
                after[partition] = one.sequence_number
    hub.close()
    return seen


if __name__ == "__main__":
    sys.stdout.write(json.dumps(read(Path(sys.argv[1]), int(sys.argv[2]))))
