"""A cause: something that is wrong now, and what to do about it."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Cause:
    """Something that is wrong. `kind` and `company` together say which incident it belongs to.

    Attributes:
        kind: what sort of thing, such as `parked`; where there are several of a sort the name follows behind a
            colon, such as `check_failed:latency_slo`.
        company: the company that it is about, "" if it is about the feed.
        what: what is wrong; without counts and times that change by themselves, because a new text is news.
        since: when it began.
        affected: who gets nothing, or the wrong thing.
        likely: the likely cause.
        command: what to type next.
        page: the path of a page of Dagster's UI.
    """

    kind: str
    company: str
    what: str
    since: datetime
    affected: str
    likely: str
    command: str
    page: str

    @property
    def sort(self) -> str:
        """The kind without the name behind it."""
        return self.kind.partition(":")[0]


RUN_FAILED, SENSOR_FAILING = "run_failed", "sensor_failing"
DAGSTERS = frozenset({RUN_FAILED, SENSOR_FAILING})  # the sorts that only Dagster knows of
