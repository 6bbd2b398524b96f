"""Company databases for the tests, looked into through the connection that writes them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import polars as pl

from lpm_stream.delivery.database import CompanyDatabase
from lpm_stream.delivery.mssql import MssqlDatabase, MssqlTransaction
from lpm_stream.delivery.postgresql import PostgresqlDatabase, PostgresqlTransaction
from lpm_stream.delivery.sqlite import SqliteTransaction
from lpm_stream.delivery.watermark import Watermark
from lpm_stream.feed.schema import CHANGE_TYPE, COMMIT_VERSION
from lpm_stream.hub.codec import AVRO, encode, to_wire
from lpm_stream.hub.message import Message, Received
from lpm_stream_tests.example import SPEC, orders

_EVENTS = ("INSERT", "UPDATE")  # what a trigger of SQLite is for, one each


def changes(kind: str, *keys: str, company: str = "A", **columns: Any) -> pl.DataFrame:
    """Changes of one kind."""
    return orders(keys, company, **columns).with_columns(pl.lit(kind).alias(CHANGE_TYPE))


def carrying(version: int, *parts: pl.DataFrame, company: str = "A", **other: Any) -> Message:
    """A message with these changes, a version's only chunk."""
    rows = pl.concat(parts, how="diagonal") if parts else None
    fields: dict[str, Any] = {
        "feed": SPEC.name,
        "company": company,
        "epoch": 0,
        "version": version,
        "previous": -1,
        "committed_at": datetime.now(UTC),
        "chunk": 0,
        "last": True,
        "attempt": f"attempt {version}",
        "rows": 0 if rows is None else rows.height,
        "fingerprint": SPEC.fingerprint,
        "content_type": AVRO,
        "body": b"" if rows is None else encode(to_wire(rows, AVRO), AVRO),
    }
    return Message(**(fields | other))


def received(*messages: Message, start: int = 1) -> Sequence[Received]:
    """The messages as a hub hands them out."""
    return [Received(message, 0, number) for number, message in enumerate(messages, start)]


def query(database: CompanyDatabase, statement: str) -> list[tuple[Any, ...]]:
    """The rows of a query."""
    with database.transaction() as transaction:
        assert isinstance(transaction, SqliteTransaction | PostgresqlTransaction | MssqlTransaction)
        return transaction.query(statement)


def run(database: CompanyDatabase, statement: str) -> None:
    """Executes a statement, committed."""
    with database.transaction() as transaction:
        assert isinstance(transaction, SqliteTransaction | PostgresqlTransaction | MssqlTransaction)
        transaction.run(statement)


def rename_column(database: CompanyDatabase, table: str, name: str, new: str) -> None:
    """Renames a column, as a customer might."""
    if isinstance(database, MssqlDatabase):
        run(database, f"EXEC sp_rename N'[{table}].[{name}]', N'{new}', N'COLUMN'")
    else:
        run(database, f"ALTER TABLE {table} RENAME COLUMN {name} TO {new}")


def add_text_column(database: CompanyDatabase, table: str, name: str) -> None:
    """Adds a column, as a customer might."""
    added = f"{name} nvarchar(max)" if isinstance(database, MssqlDatabase) else f"COLUMN {name} TEXT"
    run(database, f"ALTER TABLE {table} ADD {added}")


def amounts(database: CompanyDatabase) -> dict[str, int]:
    """Key to amount of every row."""
    return {str(key): amount for key, amount in query(database, 'SELECT id, amount FROM "orders"')}


def watermark(database: CompanyDatabase) -> Watermark:
    """What the database says it has applied."""
    with database.transaction() as transaction:
        return transaction.watermark()


def merge(database: CompanyDatabase, rows: pl.DataFrame, version: int) -> None:
    """Merges changes of one version."""
    with database.transaction() as transaction:
        transaction.merge(rows.with_columns(pl.lit(version, pl.Int64).alias(COMMIT_VERSION)))


def store(database: CompanyDatabase, value: Watermark) -> None:
    """Stores a watermark."""
    with database.transaction() as transaction:
        transaction.store(value)


def stored(database: CompanyDatabase, key: str = "1") -> dict[str, Any]:
    """A row as the driver hands it out."""
    names = [*SPEC.column_names, COMMIT_VERSION]
    [row] = query(database, f"SELECT {', '.join(names)} FROM orders WHERE id = '{key}'")
    return dict(zip(names, row, strict=True))


def picky(database: CompanyDatabase, condition: str, table: str = "orders") -> None:
    """Makes the table refuse rows, as a customer's own trigger would."""
    if isinstance(database, PostgresqlDatabase):
        run(
            database,
            f"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"IF {condition} THEN RAISE EXCEPTION 'not here'; END IF; RETURN NEW; END $$",
        )
        run(
            database,
            f"CREATE TRIGGER picky BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION refuse()",
        )
        return
    if isinstance(database, MssqlDatabase):  # whose triggers know no rows; this is refused likewise
        refused = condition.replace("NEW.", "")
        run(database, f"ALTER TABLE {table} ADD CONSTRAINT picky CHECK (NOT ({refused}))")
        return
    for event in _EVENTS:
        run(
            database,
            f"CREATE TRIGGER picky_{event} BEFORE {event} ON {table} WHEN {condition} "
            f"BEGIN SELECT RAISE(ABORT, 'not here'); END",
        )


def appease(database: CompanyDatabase, table: str = "orders") -> None:
    """Has it take all rows again, whether or not it was picky."""
    if isinstance(database, PostgresqlDatabase):
        run(database, f"DROP TRIGGER IF EXISTS picky ON {table}")
        run(database, "DROP FUNCTION IF EXISTS refuse()")
        return
    if isinstance(database, MssqlDatabase):
        run(database, f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS picky")
        return
    for event in _EVENTS:
        run(database, f"DROP TRIGGER IF EXISTS picky_{event}")
