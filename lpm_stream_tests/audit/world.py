"""A small feed with every column type and an awkward key, its Delta table, and databases made by plain sqlite3."""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import sqlalchemy as sa
from deltalake import write_deltalake

from lpm_stream.audit.report import AuditReport, CompanyAudit
from lpm_stream.audit.run import audit
from lpm_stream.feed.schema import contract_schema
from lpm_stream.feed.spec import Column, FeedSpec
from lpm_stream.settings import safe_file_name

# Some columns have names that would hurt, were they not quoted or kept apart.
SPEC = FeedSpec(
    name="order",
    description="Visits, for the tests",
    source_table="visits",
    company_column="company",
    primary_key=("id", "group"),
    event_time_column="seen_at",
    columns=(
        Column(name="id", type="string", nullable=False, description="key"),
        Column(name="company", type="string", nullable=False, max_length=450, description="company"),
        Column(name="group", type="int32", nullable=False, description="key, too"),
        Column(name="seen_at", type="timestamp", nullable=False, description="event time"),
        Column(name="rowid", type="int64", description="a number"),
        Column(name="s", type="string", description="a text"),
        Column(name="weight", type="float64", description="a float"),
        Column(name="count", type="int32", description="a small number"),
        Column(name="paid", type="boolean", description="a flag"),
        Column(name="due", type="date", description="a day"),
    ),
)

START = datetime(2026, 1, 1, tzinfo=UTC)
_TYPES = {"string": "TEXT", "float64": "REAL", "timestamp": "TEXT", "date": "TEXT"}

Row = dict[str, Any]


def row(number: int, company: str | None, **values: Any) -> Row:
    """A row of the Delta table."""
    return {
        "id": f"k{number}",
        "company": company,
        "group": number % 3,
        "seen_at": START + timedelta(seconds=number, microseconds=number),
        "rowid": 2**60 + number,
        "s": f"text {number}",
        "weight": number / 7,
        "count": number % 5,
        "paid": number % 2 == 0,
        "due": date(2026, 1, 1) + timedelta(days=number % 100),
    } | values


def rows(numbers: Iterable[int], company: str | None, **values: Any) -> list[Row]:
    """Rows of the Delta table."""
    return [row(number, company, **values) for number in numbers]


def frame(table: Sequence[Row], spec: FeedSpec = SPEC) -> pl.DataFrame:
    """Rows as the Delta table holds them."""
    return pl.DataFrame(table, schema=contract_schema(spec), orient="row")


def as_stored(values: Row) -> Row:
    """A row as a company's database holds it."""
    return {name: _stored(value) for name, value in values.items()}


def _stored(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f").rjust(26, "0")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bool):
        return int(value)
    return value


def connect(url: str) -> sqlite3.Connection:
    """Opens a company's database to write."""
    connection = sqlite3.connect(sa.make_url(url).database or "", isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA synchronous = OFF")  # tests need no disk that survives a power cut
    return connection


def create_database(
    url: str,
    stored: Iterable[Row],
    *,
    spec: FeedSpec = SPEC,
    typed: bool = True,
    keyed: bool = True,
    wal: bool = False,
) -> None:
    """A company's database. `typed=False` lets columns hold anything; `keyed=False` keys twice."""
    columns = [f'"{c.name}" {_TYPES.get(c.type, "INTEGER") if typed else ""}' for c in spec.columns]
    key = ", ".join(f'"{name}"' for name in spec.primary_key)
    parts = [*columns, "_commit_version INTEGER", *([f"PRIMARY KEY ({key})"] if keyed else [])]
    with closing(connect(url)) as connection:
        connection.execute(f"PRAGMA journal_mode = {'WAL' if wal else 'DELETE'}")
        connection.execute(f'CREATE TABLE "{spec.name}" ({", ".join(parts)})')
        insert(connection, stored, spec)


def insert(connection: sqlite3.Connection, stored: Iterable[Row], spec: FeedSpec = SPEC) -> None:
    """Inserts rows as they are stored."""
    names = ", ".join(f'"{name}"' for name in spec.column_names)
    marks = ", ".join("?" for _ in spec.columns)
    connection.execute("BEGIN")
    connection.executemany(
        f'INSERT INTO "{spec.name}" ({names}, _commit_version) VALUES ({marks}, 1)',
        ([values[name] for name in spec.column_names] for values in stored),
    )
    connection.execute("COMMIT")


def run_sql(url: str, statement: str, values: Sequence[Any] = ()) -> None:
    """Executes a statement on a company's database."""
    with closing(connect(url)) as connection:
        connection.execute(statement, values)


@dataclass
class World:
    """A Delta table and the databases of some companies, below one directory."""

    directory: Path
    spec: FeedSpec = SPEC
    databases: dict[str, str] = field(default_factory=dict)

    @property
    def table(self) -> str:
        return str(self.directory / "table")

    @property
    def scratch(self) -> Path:
        return self.directory / "scratch"

    def commit(self, table: Sequence[Row], **options: Any) -> None:
        """Appends rows to the Delta table."""
        write_deltalake(self.table, frame(table, self.spec).to_arrow(), mode="append", **options)

    def url(self, company: str) -> str:
        """Where a company's database is to be."""
        return f"sqlite:///{self.directory / safe_file_name(company)}.db"

    def register(self, company: str, stored: Iterable[Row], **options: Any) -> str:
        """Makes a company's database; returns its URL."""
        self.databases[company] = self.url(company)
        create_database(self.databases[company], stored, spec=self.spec, **options)
        return self.databases[company]

    def deliver(self, table: Sequence[Row], companies: Iterable[str], **options: Any) -> None:
        """Commits rows and makes the databases that they belong in, as they should be."""
        self.commit(table)
        for company in companies:
            self.register(
                company, [as_stored(values) for values in table if values["company"] == company], **options
            )

    def audit(self, **options: Any) -> AuditReport:
        """Audits all databases; the scratch directory must be empty afterwards."""
        report = audit(self.spec, self.table, self.databases, scratch=self.scratch, **options)
        assert list(self.scratch.iterdir()) == []
        return report


def of(report: AuditReport, company: str) -> CompanyAudit:
    """What was found of one company."""
    [found] = [audited for audited in report.companies if audited.company == company]
    return found


def faults(report: AuditReport) -> Mapping[str, dict[str, int]]:
    """Company to kind of fault to count, without zeros."""
    kinds = ("missing", "extra", "different", "duplicated", "misrouted")
    counted = {
        audited.company: {kind: count for kind in kinds if (count := getattr(audited.counts, kind))}
        for audited in report.companies
    }
    return {company: counts for company, counts in counted.items() if counts}
