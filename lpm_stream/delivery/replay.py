"""Takes rows out of quarantine by replaying them from the table.

A replay does not write what was refused then, but what the table holds of that row now, under the same guard and
watermark as the stream. So it can be repeated, and a row that was corrected, moved or deleted since stays so.
"""

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal

import polars as pl

from lpm_stream.control import audit, quarantine
from lpm_stream.control.leases import Lease
from lpm_stream.control.quarantine import Entry
from lpm_stream.control.registry import Served
from lpm_stream.delivery.bisect import refused_rows
from lpm_stream.delivery.database import CompanyDatabase, Transaction
from lpm_stream.delivery.hold import held, loading, require_held
from lpm_stream.delivery.watermark import Watermark
from lpm_stream.errors import LpmStreamError, RowFaultError
from lpm_stream.feed.contract import REASON, check
from lpm_stream.feed.schema import CHANGE_TYPE, COMMIT_VERSION, DELETE, contract_schema
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.source.snapshot import Snapshot
from lpm_stream.stream import Stream

_BATCH_ROWS = 20_000


@dataclass(frozen=True)
class Replayed:
    """What a replay did.

    Attributes:
        company: whose rows.
        applied: number of entries whose row is delivered now.
        superseded: number of entries whose row the table no longer has for this company.
        refused: number of entries that stay, each with its new reason.
    """

    company: str
    applied: int
    superseded: int
    refused: int


def replay(stream: Stream, company: str, ids: Sequence[str] | None = None) -> Replayed:
    """Replays rows of one company.

    Args:
        stream: the feed with its parts.
        company: its id.
        ids: of the entries; None: all of the company.

    Raises:
        LpmStreamError: if the company is not registered, or its database or the table cannot be read or written.
    """
    feed = stream.spec.name
    found = quarantine.entries(stream.store, feed, company)
    chosen = [entry for entry in found if ids is None or entry.id in ids]
    keys = {entry.id: _key(stream.spec, entry.row.payload) for entry in chosen}
    keyed = [key for key in keys.values() if key is not None]
    if not keyed:
        return Replayed(company, 0, 0, len(chosen))
    with loading(stream, company) as lease:
        served = stream.served(company)
        with closing(stream.open_database(served)) as database, held(database, lease) as mark:
            now = _replay(stream, served, _Place(database, lease, mark), _frame(stream.spec, keyed))
    return _settle(stream, company, chosen, keys, now)


@dataclass(frozen=True)
class _Now:
    """What has become of rows, by key: those in the table, and why some of them are still refused."""

    held: frozenset[tuple[object, ...]]
    refused: dict[tuple[object, ...], str]


@dataclass(frozen=True)
class _Place:
    """A company's database whose stream is held: under which lease, and at what."""

    database: CompanyDatabase
    lease: Lease
    mark: Watermark


def _replay(stream: Stream, served: Served, place: _Place, keys: pl.DataFrame) -> _Now:
    company = served.company
    snapshot = Snapshot(stream.spec, stream.table)
    if snapshot.version < place.mark.version:
        raise LpmStreamError(
            f"table {stream.table} is at version {snapshot.version}, but company {company!r} has version "
            f"{place.mark.version}: the table was set back; begin the feed anew with lpm-stream resync, or where "
            f"that was done, load the company with lpm-stream backfill"
        )
    batches = snapshot.rows(company, _BATCH_ROWS)
    held = [rows for batch in batches if (rows := _among(batch, keys)).height]
    found = pl.concat(held) if held else pl.DataFrame(schema=snapshot.fit.schema)
    gone = keys.join(found.select(keys.columns).cast(keys.schema), on=keys.columns, how="anti")
    deletes = gone.with_columns(pl.lit(company).alias(stream.spec.company_column))
    return _write(stream.spec, served, place, snapshot, found, deletes)


def _among(rows: pl.DataFrame, keys: pl.DataFrame) -> pl.DataFrame:
    """The rows that have one of these keys."""
    return rows.join(keys.cast({name: rows.schema[name] for name in keys.columns}), on=keys.columns, how="semi")


def _write(  # noqa: PLR0917 - what one transaction needs
    spec: FeedSpec,
    served: Served,
    place: _Place,
    snapshot: Snapshot,
    found: pl.DataFrame,
    deletes: pl.DataFrame,
) -> _Now:
    """Writes rows of the pinned version, removes those it does not have, and says what has become of them."""
    contract = served.entitlement.contract(spec)
    checked = check(contract, snapshot.fit, found.with_columns(pl.lit("insert").alias(CHANGE_TYPE)))
    refused = dict(zip(_keys(spec, checked.bad), checked.bad[REASON], strict=True))
    refused |= dict(zip(_keys(spec, checked.stripped), checked.stripped[REASON], strict=True))
    rows = checked.good.unique(spec.primary_key, keep="last")
    gone = deletes.with_columns(pl.lit(DELETE).alias(CHANGE_TYPE))
    rows = pl.concat([rows, gone], how="diagonal_relaxed")
    rows = rows.with_columns(pl.lit(snapshot.version, pl.Int64).alias(COMMIT_VERSION))
    while True:
        try:
            with place.database.transaction() as transaction:
                require_held(transaction, place.lease, f"the replay of company {served.company!r}")
                _merge(transaction, rows)
        except RowFaultError as fault:
            faulty = refused_rows(place.database, rows, _merge, fault)
            for row, reason in faulty:
                refused[_keys(spec, row)[0]] = reason
            rows = rows.join(pl.concat([row for row, _ in faulty]), on=list(spec.primary_key), how="anti")
        else:
            return _Now(frozenset(_keys(spec, found)), refused)


def _merge(transaction: Transaction, rows: pl.DataFrame) -> None:
    transaction.merge(rows)


def _settle(
    stream: Stream,
    company: str,
    entries: Sequence[Entry],
    keys: dict[str, tuple[object, ...] | None],
    now: _Now,
) -> Replayed:
    done: list[str] = []
    applied = superseded = 0
    for entry in entries:
        key = keys[entry.id]
        if key is None or key in now.refused:
            continue
        done.append(entry.id)
        applied += key in now.held
        superseded += key not in now.held
    with stream.store.write() as connection:
        quarantine.remove(connection, done)
        for entry in entries:
            key = keys[entry.id]
            if key is not None and key in now.refused:
                quarantine.set_reason(connection, entry.id, now.refused[key])
        replayed = Replayed(company, applied, superseded, len(entries) - len(done))
        details = {"feed": stream.spec.name} | {k: v for k, v in vars(replayed).items() if k != "company"}
        audit.record(connection, "replay", company, details)
    return replayed


def _keys(spec: FeedSpec, rows: pl.DataFrame) -> list[tuple[object, ...]]:
    return list(rows.select(spec.primary_key).rows())


def _frame(spec: FeedSpec, keys: Sequence[tuple[object, ...]]) -> pl.DataFrame:
    schema = {name: contract_schema(spec)[name] for name in spec.primary_key}
    return pl.DataFrame(keys, schema=schema, orient="row").unique()


def _key(spec: FeedSpec, payload: str) -> tuple[object, ...] | None:
    """The key of a refused row, None if it has none."""
    row = json.loads(payload)
    values = [_value(spec, name, row.get(name)) for name in spec.primary_key]
    return None if None in values else tuple(values)


def _value(spec: FeedSpec, name: str, text: object) -> object:
    kind = spec.column(name).type
    if kind == "timestamp" and isinstance(text, str):
        return datetime.fromisoformat(text)
    if kind == "date" and isinstance(text, str):
        return date.fromisoformat(text)
    if kind == "decimal" and isinstance(text, str):
        return Decimal(text)
    return text
