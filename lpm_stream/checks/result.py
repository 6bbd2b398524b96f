"""What a check says of a company."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import get_args

from lpm_stream.feed.checks import CheckName, Severity
from lpm_stream.feed.spec import FeedSpec

Value = int | float | str | bool | datetime

# Reads tables whole: too costly for every few minutes.
THOROUGH: CheckName = "complete_against_source"
MOST_EXAMPLES = 20

# Rest on the comparison of files.
ON_FILES: frozenset[CheckName] = frozenset({"complete_against_legacy", "sooner_than_legacy"})


@dataclass(frozen=True)
class Result:
    """One check of one company.

    Attributes:
        name: of the check.
        company: the company's id.
        passed: whether all is well.
        severity: of a failure.
        description: one sentence for a person.
        values: what was measured. Counts, versions, seconds, instants; never row values.
        examples: where it is wrong first, as rows of a table with the same columns: files, keys, column names.
        failure: what sort of failure it is: the same as long as the trouble is, whatever the numbers are. "" if
            the description says just that.
    """

    name: CheckName
    company: str
    passed: bool
    severity: Severity
    description: str
    values: Mapping[str, Value] = field(default_factory=dict)
    examples: tuple[Mapping[str, str], ...] = ()
    failure: str = ""

    @property
    def bad(self) -> bool:
        """Whether people have to act."""
        return not self.passed and self.severity == "ERROR"


def check_names(spec: FeedSpec) -> tuple[CheckName, ...]:
    """The checks of a feed: all, or without legacy files those that need none."""
    return tuple(name for name in get_args(CheckName) if spec.legacy or name not in ON_FILES)


def severity(spec: FeedSpec, name: CheckName) -> Severity:
    """How bad the failure of a check is."""
    if name == "complete_against_legacy" and spec.legacy:
        return spec.legacy.severity
    return "WARN" if name in spec.checks.warnings else "ERROR"
