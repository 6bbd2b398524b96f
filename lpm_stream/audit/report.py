"""What an audit found. Counts, keys and column names only: the values are call records."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Self

Fault = Literal["missing", "extra", "different", "duplicated", "misrouted"]
KeyPart = str | int | None


@dataclass(frozen=True)
class Example:
    """One faulty row.

    Attributes:
        key: its primary key, in the order of the spec; a timestamp or date as text, a part that is not of the
            contract's type as None.
        columns: for `different`, the columns whose values differ.
    """

    key: tuple[KeyPart, ...]
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Counts:
    """What was counted, of one company or of several together.

    A database row counts as one kind of fault at most; a further copy of a key as `duplicated` besides.

    Attributes:
        rows_in_table: rows of the Delta table.
        rows_in_database: rows of the company's database table.
        missing: rows of the Delta table whose key is not in the company's database.
        extra: database rows whose key is nowhere in the Delta table.
        different: database rows whose key the company has in the Delta table, with other values.
        duplicated: copies of a key within one database, beyond the first.
        misrouted: database rows that name another company, or whose key only other companies have.
    """

    rows_in_table: int = 0
    rows_in_database: int = 0
    missing: int = 0
    extra: int = 0
    different: int = 0
    duplicated: int = 0
    misrouted: int = 0

    @property
    def faults(self) -> int:
        """All kinds together."""
        return self.missing + self.extra + self.different + self.duplicated + self.misrouted

    @classmethod
    def total(cls, parts: Iterable[Self]) -> Self:
        """The sum, field by field."""
        rows = [vars(part) for part in parts]
        return cls(**{name: sum(row[name] for row in rows) for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class CompanyAudit:
    """One company's database.

    Attributes:
        company: its id.
        counts: what was counted.
        examples: up to 10 rows, lowest keys first, of each kind of fault there is.
        problem: why the database could not be read; all its rows then count as missing.
    """

    company: str
    counts: Counts
    examples: Mapping[Fault, tuple[Example, ...]] = field(default_factory=dict)
    problem: str | None = None

    @property
    def clean(self) -> bool:
        """Whether the database was read and holds exactly the company's rows."""
        return self.problem is None and self.counts.faults == 0


@dataclass(frozen=True)
class AuditReport:
    """The whole audit.

    Attributes:
        feed: the feed's name.
        table: location of the Delta table.
        version: the version that was compared.
        settled_version: the newest version that differences were looked at again, or None if none were.
        companies: one entry for each company asked for, in that order.
        unregistered: rows of the table whose company was not asked for, or is null.
        ambiguous: keys that the table itself holds more than once. A database row passes if it equals one of
            its company's copies.
        ambiguous_examples: up to 10 of them.
    """

    feed: str
    table: str
    version: int
    settled_version: int | None
    companies: tuple[CompanyAudit, ...]
    unregistered: int
    ambiguous: int
    ambiguous_examples: tuple[Example, ...]

    @property
    def totals(self) -> Counts:
        """The counts of all companies together."""
        return Counts.total(company.counts for company in self.companies)

    @property
    def clean(self) -> bool:
        """Whether every database holds exactly its company's rows; `ambiguous` keys are no fault of theirs."""
        return all(company.clean for company in self.companies)


@dataclass(frozen=True)
class Step:
    """A piece of work done.

    Attributes:
        name: what was done.
        rows: how many rows it read; for `compare` and `settle`, how many faults stand.
        company: whose database, for `database`.
    """

    name: Literal["table", "database", "compare", "settle"]
    rows: int
    company: str | None = None


Progress = Callable[[Step], None]
