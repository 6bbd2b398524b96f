"""Messages for the tests of hubs, and a process that sends them until it is killed."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lpm_stream.hub.local import LocalHub
from lpm_stream.hub.message import Message

COMMITTED = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def message(company: str, version: int, **other: Any) -> Message:
    """A message of one company; `other` replaces what its fields hold otherwise."""
    fields: dict[str, Any] = {
        "feed": "orders",
        "company": company,
        "epoch": 0,
        "version": version,
        "previous": -1,
        "committed_at": COMMITTED,
        "chunk": 0,
        "last": True,
        "attempt": "a1",
        "rows": 1,
        "fingerprint": "f" * 16,
        "content_type": "application/avro",
        "body": f"{company} {version}".encode(),
    }
    return Message(**(fields | other))


def send_forever(directory: Path, companies: list[str], most: int) -> None:
    """Sends one version after the other to every company, and writes each one's number once it is acknowledged."""
    hub = LocalHub(directory, 2, 1)
    start = max((hub.end(partition) for partition in hub.partitions()), default=0)
    for version in range(start + 1, start + most + 1):
        hub.send([message(company, version, body=b"x" * (version % 50 * 100)) for company in companies])
        sys.stdout.write(f"{version}\n")
        sys.stdout.flush()
    hub.close()


if __name__ == "__main__":
    send_forever(Path(sys.argv[1]), sys.argv[3:], int(sys.argv[2]))
