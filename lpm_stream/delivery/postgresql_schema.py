"""Keeps a company's PostgreSQL tables in step with the contract and with what the source sends."""

import logging

import polars as pl

from lpm_stream.delivery.entitled import entitled, require_newest
from lpm_stream.delivery.postgresql_tables import PostgresqlTables, loaded_type, stored_type, widens
from lpm_stream.delivery.session import Session, StoredColumn
from lpm_stream.delivery.table_faults import key_problems
from lpm_stream.errors import TargetFaultError
from lpm_stream.feed.schema import CHANGE_TYPE, COMMIT_VERSION, polars_type
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.postgresql import LONGEST_NAME

log = logging.getLogger(__name__)


def fit_to_contract(spec: FeedSpec, session: Session) -> list[str]:
    """Brings the company's table to the contract where that is safe and quick to undo for nobody.

    Columns that the contract has gained are added, and those that it widens or lets be NULL are altered.

    Returns:
        What else keeps the table from holding the contract's rows.
    """
    stored = _columns(session, spec.name)
    problems = []
    for column in spec.columns:
        wanted = _wanted(column.name, polars_type(column))
        found = stored.pop(column.name, None)
        if found is None and column.nullable:
            session.run(PostgresqlTables.add_column(spec.name, column.name, wanted))
        elif found is None:
            problems.append(f"column {column.name} is missing, the contract says {wanted}")
        elif found.type != wanted and not widens(found.type, wanted):
            problems.append(f"column {column.name} is {found.type}, the contract says {wanted}")
        elif found.type != wanted:
            session.run(PostgresqlTables.change_type(spec.name, column.name, wanted))
        if found and found.not_null and column.nullable:
            session.run(PostgresqlTables.drop_not_null(spec.name, column.name))
    stored.pop(COMMIT_VERSION, None)
    problems += [f"column {name} is NOT NULL and not in the contract" for name in stored if stored[name].needed]
    key = session.query(PostgresqlTables.select_key(spec.name))
    return problems + key_problems(spec, [name for (name,) in key])


def fit_to_entitlements(spec: FeedSpec, tables: PostgresqlTables, session: Session, generation: int) -> None:
    """Drops columns that the company may not get any more, and what a backfill has built with others.

    Raises:
        EntitlementsChangedError: if the database was opened with newer entitlements.
    """
    stored = require_newest(generation, session.query(tables.select_entitlement), session.place)
    withheld = set(spec.withheld)
    for name in _columns(session, spec.name).keys() & withheld:
        session.run(tables.drop_column(spec.name, name))
        log.info("%s: column %s dropped from table %s", session.place, name, spec.name)
    if generation > stored or _columns(session, tables.replacement_name).keys() & withheld:
        session.run(tables.drop_replacement)
    if generation > stored:
        session.run(tables.store_entitlement(generation))


def fitted(spec: FeedSpec, rows: pl.DataFrame, session: Session, table: str) -> pl.DataFrame:
    """Rows with exactly the types of a table, to which columns are added that the source has gained.

    The publisher has decided that they are to be delivered. One that is null throughout may come without a type:
    it waits for its first value.

    Raises:
        EntitlementsChangedError: if the table is not one of the company's entitlements as they are in `spec`.
        TargetFaultError: if a column of the table cannot hold what arrives.
    """
    stored = _columns(session, table)
    rows = entitled(spec, rows, stored, session.place)
    for name, dtype in rows.schema.items():
        if name == CHANGE_TYPE:
            continue
        found = stored.get(name)
        if dtype == pl.Null():
            rows = rows.drop(name) if found is None else rows.with_columns(_as(name, found.type))
            continue
        wanted = _wanted(name, dtype)
        if found is None:
            session.run(PostgresqlTables.add_column(table, name, wanted))
            log.info("%s: column %s added to table %s", session.place, name, table)
        elif widens(found.type, wanted):
            session.run(PostgresqlTables.change_type(table, name, wanted))
            log.info("%s: column %s of table %s widened to %s", session.place, name, table, wanted)
        elif widens(wanted, found.type):
            rows = rows.with_columns(_as(name, found.type))
        elif found.type != wanted:
            raise TargetFaultError(
                f"column {name} is {found.type} in table {table} of {session.place}, but {wanted} in the source "
                f"now; build the table anew with lpm-stream backfill COMPANY --replace"
            )
    return rows


def _columns(session: Session, table: str) -> dict[str, StoredColumn]:
    rows = session.query(PostgresqlTables.select_columns(table))
    return {name: StoredColumn(stored, not_null, needed) for name, stored, not_null, needed in rows}


def _wanted(name: str, dtype: pl.DataType) -> str:
    wanted = stored_type(dtype)
    if wanted is None:
        raise TargetFaultError(f"column {name} of type {dtype} has no PostgreSQL type")
    if len(name.encode()) > LONGEST_NAME:
        raise TargetFaultError(f"column {name}: PostgreSQL takes names of at most {LONGEST_NAME} bytes; rename it")
    return wanted


def _as(name: str, stored: str) -> pl.Expr:
    """A column in the type that the table has for it."""
    return pl.col(name).cast(loaded_type(stored))
