"""What a deliver drain has done and not yet written to the control store."""

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime

import sqlalchemy as sa

from lpm_stream.control import ledger, parking, progress
from lpm_stream.control.latency import Latencies
from lpm_stream.control.parking import Parked
from lpm_stream.delivery.apply import Applied
from lpm_stream.delivery.watermark import Watermark


@dataclass
class Unsaved:
    """Results since the last save."""

    delivered: dict[str, progress.Delivered] = field(default_factory=dict)
    latencies: dict[tuple[str, datetime], Latencies] = field(default_factory=lambda: defaultdict(Latencies))
    parked: dict[str, Parked | None] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.delivered or self.latencies or self.parked)

    def add(self, company: str, partition: int, applied: Applied, *, waited: bool) -> Latencies:
        """Notes a transaction; returns the latencies of its changes.

        Args:
            company: whose.
            partition: the hub partition that holds its messages.
            applied: the transaction.
            waited: whether its changes waited in the hub for a company that was parked or paused.
        """
        latencies = Latencies()
        uncounted = applied.changes  # less than the messages hold if rows were refused, or had come before
        for message in applied.messages:
            changes = min(message.rows, uncounted)
            if changes:
                latencies.add((applied.applied_at - message.committed_at).total_seconds(), changes, waited=waited)
                uncounted -= changes
        minute = applied.applied_at.replace(second=0, microsecond=0)
        self.latencies[company, minute].merge(latencies)
        if applied.messages:
            self.delivered[company] = progress.Delivered(
                applied.watermark.epoch,
                applied.watermark.version,
                partition,
                applied.watermark.sequence_number,
                max(message.committed_at for message in applied.messages),
                applied.applied_at,
            )
        return latencies

    def find(self, company: str, partition: int, watermark: Watermark) -> progress.Delivered:
        """Notes what a database turns out to have: more than is known, after a crash, or less, an older copy.

        Without it nobody would notice if the database lost that again, or everybody again and again.
        """
        at = datetime.now(UTC)
        mark = watermark
        self.delivered[company] = progress.Delivered(
            mark.epoch, mark.version, partition, mark.sequence_number, at, at
        )
        return self.delivered[company]

    def save(self, connection: sa.Connection, feed: str) -> None:
        """Writes everything within the connection's transaction."""
        ledger.record(connection, feed, self.latencies)
        progress.write_deliveries(connection, feed, self.delivered)
        for company, state in self.parked.items():
            parking.write_parked(connection, feed, company, state)
