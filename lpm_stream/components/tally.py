"""What has been published since the hub was last reported to Dagster: the publish sensor's cursor."""

from datetime import datetime, timedelta
from typing import Self

from pydantic import BaseModel, ConfigDict

from lpm_stream.components.cursors import read_cursor
from lpm_stream.publish.drain import Published


class Tally(BaseModel):
    """Counts since the last report.

    Attributes:
        reported_at: when that was; None if there has been none.
        versions: number of commits published since.
        changes: number of changes sent.
        messages: number of messages sent.
        bytes: size of their bodies.
        quarantined: number of rows that went to quarantine.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    reported_at: datetime | None = None
    versions: int = 0
    changes: int = 0
    messages: int = 0
    bytes: int = 0
    quarantined: int = 0

    @classmethod
    def read(cls, text: str | None) -> Self:
        """The tally that the last tick left.

        Raises:
            LpmStreamError: if it cannot be read.
        """
        return read_cursor(cls, text) if text else cls()

    def plus(self, done: Published) -> Self:
        """With what one more drain did."""
        return self.model_copy(
            update={
                name: getattr(self, name) + getattr(done, name)
                for name in ("versions", "changes", "messages", "bytes", "quarantined")
            }
        )

    def is_due(self, now: datetime, window: timedelta) -> bool:
        """Whether there is something to report, and the last report is long enough ago."""
        return self.versions > 0 and (self.reported_at is None or now - self.reported_at >= window)
