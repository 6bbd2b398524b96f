"""A PostgreSQL database is audited as any other: what differs in it is found, in the form that it has there."""

import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

import polars as pl
import pytest
import sqlalchemy as sa

from lpm_stream.audit.report import AuditReport
from lpm_stream.delivery.database import open_database
from lpm_stream.errors import LpmStreamError
from lpm_stream.feed.schema import CHANGE_TYPE, COMMIT_VERSION
from lpm_stream.feed.spec import FeedSpec
from lpm_stream_tests.audit.world import SPEC, Row, World, faults, frame, of, row, rows
from lpm_stream_tests.postgresql import Server

TABLE = [*rows(range(10), "A"), *rows(range(10, 18), "B")]
KEYS_OF_ALL_TYPES = SPEC.model_copy(
    update={
        "primary_key": ("id", "group", "rowid", "paid", "due", "seen_at"),
        "columns": tuple(
            column.model_copy(update={"nullable": column.name not in ("rowid", "paid", "due") and column.nullable})
            for column in SPEC.columns
        ),
    }
)


@dataclass
class Postgresql:
    """A world whose databases are written by delivery, and then changed behind its back."""

    world: World
    server: Server
    stack: ExitStack
    spec: FeedSpec = SPEC
    names: dict[str, str] = field(default_factory=dict)

    def deliver(self, table: list[Row], *companies: str) -> None:
        """Commits rows and delivers them."""
        self.world.commit(table)
        for company in companies:
            self.register(company)
            mine = [values for values in table if values["company"] == company]
            changes = frame(mine, self.spec).with_columns(
                pl.lit("insert").alias(CHANGE_TYPE),
                pl.lit(1, pl.Int64).alias(COMMIT_VERSION),
                pl.col("weight").fill_nan(None),
            )
            url = self.world.databases[company]
            with (
                closing(open_database(self.spec, company, url)) as database,
                database.transaction() as transaction,
            ):
                transaction.merge(changes)

    def register(self, company: str) -> None:
        """Names a database, which does not exist yet."""
        self.names[company] = self.stack.enter_context(self.server.name())
        self.world.databases[company] = self.server.url(self.names[company]).render_as_string()

    def run(self, company: str, *statements: str) -> None:
        """Changes a company's database."""
        for statement in statements:
            self.server.run(statement, self.names[company])

    def audit(self, **options: Any) -> AuditReport:
        return self.world.audit(**options)


@pytest.fixture
def there(world: World, postgresql_server: Server) -> Iterator[Postgresql]:
    with ExitStack() as stack:
        yield Postgresql(world, postgresql_server, stack)


def test_a_faithful_delivery_is_clean(there: Postgresql) -> None:
    there.deliver(TABLE, "A", "B")
    report = there.audit()
    assert report.clean
    assert [one.counts.rows_in_database for one in report.companies] == [10, 8]


def test_values_of_every_type_are_equal_to_themselves(there: Postgresql) -> None:
    values: list[tuple[str, Any]] = [
        ("weight", float("nan")),
        ("weight", float("inf")),
        ("weight", -float("inf")),
        ("weight", -0.0),
        ("weight", 5e-324),
        ("weight", 0.1 + 0.2),
        ("rowid", 2**63 - 1),
        ("rowid", -(2**63)),
        ("s", ""),
        ("s", None),
        ("s", "naïve 😀 𐍈\u200d e\u0301 '; -- % :x"),
        ("s", "SIP 😀 " * 200_000),
        ("paid", None),
        ("due", date(1, 1, 1)),
        ("due", date(9999, 12, 31)),
        ("seen_at", datetime(1, 1, 1, tzinfo=UTC)),
        ("seen_at", datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC)),
        ("seen_at", datetime(9999, 12, 31, 23, 59, 59, 999_999, UTC)),
        *((name, None) for name in ("rowid", "weight", "count", "due")),
    ]
    there.deliver([row(number, "A", **{name: value}) for number, (name, value) in enumerate(values)], "A")
    assert there.audit(settle_seconds=0.1).clean


@pytest.mark.parametrize(
    "change",
    [
        "s = s || ' '",
        "s = NULL",
        "rowid = rowid + 1",
        "weight = weight + 1e-16",
        "weight = 'NaN'",
        "paid = NOT paid",
        "paid = NULL",
        "due = due + 1",
        "due = 'infinity'",
        "due = '0001-01-01 BC'",
        "seen_at = seen_at + interval '1 microsecond'",
        "seen_at = 'infinity'",
        "seen_at = '2026-01-01 BC'",
    ],
)
def test_a_value_that_was_changed_differs(there: Postgresql, change: str) -> None:
    there.deliver([row(1, "A", weight=0.1)], "A")
    there.run("A", f'UPDATE "order" SET {change}')
    report = there.audit(settle_seconds=0.01)
    assert faults(report) == {"A": {"different": 1}}
    assert of(report, "A").examples["different"][0].columns == (change.split(maxsplit=1)[0],)


def test_what_is_missing_extra_doubled_or_misrouted_is_found(there: Postgresql) -> None:
    there.deliver(TABLE, "A", "B")
    there.run(
        "A",
        """ALTER TABLE "order" DROP CONSTRAINT order_pkey, DROP CONSTRAINT order_company_check""",
        """DELETE FROM "order" WHERE id = 'k3'""",
        """INSERT INTO "order" SELECT * FROM "order" WHERE id = 'k4'""",
        """UPDATE "order" SET id = 'k99' WHERE id = 'k5'""",
        """UPDATE "order" SET company = 'B' WHERE id = 'k6'""",
    )
    report = there.audit(settle_seconds=0.01)
    assert faults(report) == {"A": {"missing": 2, "extra": 1, "duplicated": 1, "misrouted": 1}}


def test_a_column_of_another_type_is_odd(there: Postgresql) -> None:
    there.deliver(TABLE, "A", "B")
    there.run("A", 'ALTER TABLE "order" ALTER COLUMN "rowid" TYPE numeric, ALTER COLUMN "count" TYPE text')
    report = there.audit()
    assert faults(report) == {"A": {"different": 10}}
    assert of(report, "A").examples["different"][0].columns == ("rowid", "count")


def test_keys_of_every_type_are_looked_at_again(world: World, postgresql_server: Server) -> None:
    world.spec = KEYS_OF_ALL_TYPES
    with ExitStack() as stack:
        there = Postgresql(world, postgresql_server, stack, KEYS_OF_ALL_TYPES)
        odd = [row(50, "A", id="with\0nul", rowid=-(2**63))]
        there.deliver([*rows(range(300), "A", weight=1.0)], "A")
        world.commit(odd)
        there.run("A", 'UPDATE "order" SET weight = 2')
        steps: list[str] = []

        def catch_up(step: Any) -> None:
            steps.append(step.name)
            if step.name == "compare":
                there.run("A", """UPDATE "order" SET weight = 1 WHERE id <> 'k7'""")

        report = world.audit(settle_seconds=0.1, progress=catch_up)
        assert faults(report) == {"A": {"different": 1, "missing": 1}}
        assert "settle" in steps


def no_database(there: Postgresql) -> None:
    there.server.run(f"DROP DATABASE {there.names['A']}")


def no_table(there: Postgresql) -> None:
    there.run("A", 'ALTER TABLE "order" RENAME TO other')


def no_column(there: Postgresql) -> None:
    there.run("A", 'ALTER TABLE "order" DROP COLUMN s')


def text_for_instant(there: Postgresql) -> None:
    there.run("A", 'ALTER TABLE "order" ALTER COLUMN seen_at TYPE text')


def no_server(there: Postgresql) -> None:
    there.world.databases["A"] = "postgresql://lpm:secret@127.0.0.1:1/db?password=secret"


def no_right(there: Postgresql) -> None:
    if not there.server.run("SELECT 1 FROM pg_roles WHERE rolname = 'stranger'"):
        there.server.run("CREATE ROLE stranger LOGIN")
    url = sa.make_url(there.world.databases["A"]).set(username="stranger")
    there.world.databases["A"] = url.render_as_string()


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (no_database, "does not exist; deliver makes it"),
        (no_table, 'relation "order" does not exist'),
        (no_column, "its table order lacks the contract's columns s"),
        (text_for_instant, "does not exist"),
        (no_server, r"127\.0\.0\.1.* cannot be read: .*refused"),
        (no_right, "permission denied"),
    ],
)
def test_database_that_cannot_be_read(there: Postgresql, spoil: Any, problem: str) -> None:
    there.deliver(TABLE, "A", "B")
    spoil(there)
    report = there.audit(settle_seconds=0.01)
    assert faults(report) == {"A": {"missing": 10}}
    said = of(report, "A").problem or ""
    assert re.search(problem, said)
    assert "\n" not in said
    assert "secret" not in said


def test_a_company_without_rows_needs_no_database(there: Postgresql) -> None:
    there.deliver(TABLE, "A", "B")
    there.register("C")
    assert there.audit().clean


def test_both_kinds_in_one_audit(there: Postgresql) -> None:
    there.deliver(TABLE, "A")
    there.world.register("B", [])
    assert faults(there.audit()) == {"B": {"missing": 8}}


def test_without_the_driver_it_is_said_what_to_install(there: Postgresql, monkeypatch: pytest.MonkeyPatch) -> None:
    there.deliver(TABLE, "A", "B")
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(LpmStreamError, match=r"pip install 'lpm-stream\[postgresql\]'"):
        there.audit()
