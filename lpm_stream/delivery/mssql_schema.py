"""Keeps a company's SQL Server tables in step with the contract and with what the source sends."""

import logging
from collections.abc import Mapping

import polars as pl

from lpm_stream.delivery.entitled import entitled, require_newest
from lpm_stream.delivery.indexes import drop_indexes_on
from lpm_stream.delivery.mssql_tables import MssqlTables, is_text, loaded_type, stored_type, widens
from lpm_stream.delivery.session import Session, StoredColumn
from lpm_stream.delivery.table_faults import key_problems
from lpm_stream.errors import TargetFaultError
from lpm_stream.feed.schema import CHANGE_TYPE, COMMIT_VERSION
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.mssql import LONGEST_NAME

log = logging.getLogger(__name__)


def fit_to_contract(spec: FeedSpec, tables: MssqlTables, session: Session) -> list[str]:
    """Brings the company's table to the contract where that is safe and quick to undo for nobody.

    Columns that the contract has gained are added, and those that it widens or lets be NULL are altered.

    Returns:
        What else keeps the table from holding the contract's rows.
    """
    stored = stored_columns(session, spec.name)
    problems = []
    for column in spec.columns:
        wanted = tables.stored_type(column)
        found = stored.pop(column.name, None)
        if found is None and column.nullable:
            session.run(tables.add_column(spec.name, column.name, wanted))
        elif found is None:
            problems.append(f"column {column.name} is missing, the contract says {wanted}")
        elif widens(found.type, wanted) and column.name in spec.primary_key:  # which other things depend on
            problems.append(f"column {column.name} of the key is {found.type}, the contract says {wanted}")
        elif not (_holds(found.type, wanted) or widens(found.type, wanted)):
            problems.append(f"column {column.name} is {found.type}, the contract says {wanted}")
        elif widens(found.type, wanted) or (found.not_null and column.nullable):
            fitting = wanted if widens(found.type, wanted) else found.type
            not_null = found.not_null and not column.nullable
            drop_indexes_on(tables, session, [column.name])
            session.run(tables.alter_column(spec.name, column.name, fitting, not_null=not_null))
    stored.pop(COMMIT_VERSION, None)
    problems += [f"column {name} is NOT NULL and not in the contract" for name in stored if stored[name].needed]
    key = session.query(tables.select_key(spec.name))
    return problems + key_problems(spec, [name for (name,) in key])


def fit_to_entitlements(spec: FeedSpec, tables: MssqlTables, session: Session, generation: int) -> None:
    """Drops columns that the company may not get any more, and what a backfill has built with others.

    Raises:
        EntitlementsChangedError: if the database was opened with newer entitlements.
    """
    stored = require_newest(generation, session.query(tables.select_entitlement), session.place)
    withheld = set(spec.withheld)
    drop_indexes_on(tables, session, withheld)
    for name in stored_columns(session, spec.name).keys() & withheld:
        session.run(tables.drop_column(spec.name, name))
        log.info("%s: column %s dropped from table %s", session.place, name, spec.name)
    if generation > stored or stored_columns(session, tables.replacement_name).keys() & withheld:
        session.run(tables.drop_replacement)
    if generation > stored:
        for statement in tables.store_entitlement(generation):
            session.run(statement)


def fitted(
    spec: FeedSpec, rows: pl.DataFrame, tables: MssqlTables, session: Session, table: str
) -> tuple[pl.DataFrame, dict[str, str]]:
    """Rows with the types of a table, to which columns are added that the source has gained.

    The publisher has decided that they are to be delivered. One that is null throughout may come without a type:
    it waits for its first value.

    Returns:
        The rows, and how the table stores each of their columns.

    Raises:
        EntitlementsChangedError: if the table is not one of the company's entitlements as they are in `spec`.
        TargetFaultError: if a column of the table cannot hold what arrives.
    """
    stored = stored_columns(session, table)
    rows = entitled(spec, rows, stored, session.place)
    types: dict[str, str] = {}
    for name, dtype in rows.schema.items():
        if name == CHANGE_TYPE:
            continue
        found = stored.get(name)
        if dtype == pl.Null() and found is None:
            rows = rows.drop(name)
            continue
        wanted = found.type if found and dtype == pl.Null() else _wanted(name, dtype)
        if found is None:
            session.run(tables.add_column(table, name, wanted))
            log.info("%s: column %s added to table %s", session.place, name, table)
        elif _holds(found.type, wanted) or widens(wanted, found.type):
            wanted = found.type
        elif widens(found.type, wanted):
            dropped = drop_indexes_on(tables, session, [name])
            session.run(tables.alter_column(table, name, wanted, not_null=found.not_null))
            for index in tables.indexes.keys() & dropped:
                session.run(tables.create_index(index))
            log.info("%s: column %s of table %s widened to %s", session.place, name, table, wanted)
        else:
            raise TargetFaultError(
                f"column {name} is {found.type} in table {table} of {session.place}, but {wanted} in the source "
                f"now; build the table anew with lpm-stream backfill COMPANY --replace"
            )
        types[name] = wanted
    casts = (pl.col(name).cast(loaded_type(stored)) for name, stored in types.items())
    return rows.with_columns(casts), types


def stored_columns(session: Session, table: str) -> dict[str, StoredColumn]:
    """A table's columns, by name; none if there is no such table."""
    return {
        name: StoredColumn(_spelled(*spelling), bool(not_null), bool(not_null) and not filled)
        for name, *spelling, not_null, filled in session.query(MssqlTables.select_columns(table))
    }


def same_columns(session: Session, table: str, columns: Mapping[str, str]) -> bool:
    """Whether a table has these columns, name to type, and no others."""
    return {name: found.type for name, found in stored_columns(session, table).items()} == columns


def _holds(stored: str, wanted: str) -> bool:
    """Whether a column can stay as it is. Of a text that is too long for it the row is told, not the table."""
    return stored == wanted or (is_text(stored) and is_text(wanted))


def _spelled(kind: str, length: int | None, digits: int | None, precision: int | None, scale: int | None) -> str:
    kind = kind.lower()
    if kind in ("decimal", "numeric"):  # two words for the same
        return f"decimal({precision},{scale})"
    if kind in ("nvarchar", "varchar"):
        return f"{kind}({'max' if length == -1 else length})"
    return f"{kind}({digits})" if kind in ("datetime2", "datetimeoffset") else kind


def _wanted(name: str, dtype: pl.DataType) -> str:
    wanted = stored_type(dtype)
    if wanted is None:
        raise TargetFaultError(f"column {name} of type {dtype} has no SQL Server type")
    if len(name) > LONGEST_NAME:
        raise TargetFaultError(
            f"column {name}: SQL Server takes names of at most {LONGEST_NAME} characters; rename it"
        )
    return wanted
