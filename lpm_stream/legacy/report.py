"""What the comparison of a legacy file has found. Counts, keys, column names and line numbers only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from lpm_stream.audit.report import Example
from lpm_stream.legacy.names import Period
from lpm_stream.legacy.records import BrokenLine

Kind = Literal["missing", "extra", "different"]
Explanation = Literal["corrected_later", "committed_later", "withdrawn_later", "in_neighbour", "grace"]
Verdict = Literal["passed", "failed", "late", "waiting", "unread"]


@dataclass(frozen=True)
class Faults:
    """How file and table differ.

    Attributes:
        rows_in_file: records of the file, the broken ones among them.
        rows_in_table: rows of the company's table whose event time is in the period.
        missing: rows of the file whose key is not in the company's table.
        extra: rows of the period in the company's table whose key is not in the file.
        different: rows in both whose values differ.
        broken: lines of the file that could not be compared.
        explained: rows that differ for a good reason, which the three counts leave out. `corrected_later`: changed
            after the file was cut; `committed_later`: first committed after it was cut; `withdrawn_later`: deleted
            from the source after it was cut; `in_neighbour`: lies near an edge of the period and
            stands in the file beyond it; `grace`: the stream, or that neighbouring file, may still bring it.
    """

    rows_in_file: int = 0
    rows_in_table: int = 0
    missing: int = 0
    extra: int = 0
    different: int = 0
    broken: int = 0
    explained: Mapping[Explanation, int] = field(default_factory=dict)

    @property
    def unexplained(self) -> int:
        """All that counts against the tolerance."""
        return self.missing + self.extra + self.different + self.broken


@dataclass(frozen=True)
class Sooner:
    """How much earlier the stream brought the file's records than the file did, in seconds; negative: later.

    A bound from below, not a measurement of each row: a row counts as applied when its last commit before the cut
    plus the longest latency that the ledger has of the company, between that commit and the file's arrival. The
    arrival is the file's last modification by the server's clock. Rows whose commits the table's log no longer has
    are left out.

    Attributes:
        rows: how many rows it says something about.
        least: of the row with the smallest advance.
        median: of the middle row.
    """

    rows: int
    least: float
    median: float


@dataclass(frozen=True)
class Reconciliation:
    """The result for a company and period.

    Attributes:
        feed: the feed's name.
        company: its id.
        period: what the file covers.
        compared_at: when.
        verdict: `failed`: more than the tolerance is unexplained, or the file is not what it should be; `late`:
            it is overdue; `waiting`: it still grows; `unread`: the file or the company's database could not be
            read, which says nothing about the stream.
        file: path below the location; None if there is none.
        modified: when the file was last written to.
        size: in bytes.
        faults: how file and table differ.
        problem: what is wrong with the file as a whole, or why there is no result.
        examples: the lowest keys of each kind of fault.
        broken: the first broken lines.
        late_seconds: by how much the file came, or is, too late.
        sooner: how much earlier the stream was; None if nothing is known.
    """

    feed: str
    company: str
    period: Period
    compared_at: datetime
    verdict: Verdict
    file: str | None = None
    modified: datetime | None = None
    size: int = 0
    faults: Faults = field(default_factory=Faults)
    problem: str | None = None
    examples: Mapping[Kind, tuple[Example, ...]] = field(default_factory=dict)
    broken: tuple[BrokenLine, ...] = ()
    late_seconds: float = 0
    sooner: Sooner | None = None

    @property
    def bad(self) -> bool:
        """Whether people have to act."""
        return self.verdict in {"failed", "late"}
