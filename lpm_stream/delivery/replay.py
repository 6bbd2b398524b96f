"""Takes rows out of quarantine by replaying them from the table.

A replay does not write what was refused then, but what the table holds of that row now, under the same guard and
watermark as the stream. So it can be repeated, and a row that was corrected, moved or deleted since stays so.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from functools import partial

import polars as pl

from lpm_stream.control import audit, leases, quarantine
from lpm_stream.control.leases import Lease
from lpm_stream.control.quarantine import Entry
from lpm_stream.delivery.bisect import refused_rows
from lpm_stream.delivery.database import Transaction
from lpm_stream.delivery.hold import Loading, loading
from lpm_stream.delivery.watermark import Watermark
from lpm_stream.errors import LpmStreamError, RowFaultError
from lpm_stream.feed.contract import REASON, check
from lpm_stream.feed.schema import CHANGE_TYPE, COMMIT_VERSION, DELETE
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.source.snapshot import Snapshot
from lpm_stream.stream import Stream

_BATCH_ROWS = 20_000
_KEYS_AT_ONCE = 10_000

Key = tuple[object, ...]


@dataclass(frozen=True)
class Replayed:
    """What a replay did.

    Attributes:
        company: whose rows.
        applied: number of entries whose row is delivered now.
        superseded: number of entries whose row the table no longer has for this company.
        refused: number of entries that stay, each with its new reason.
        problem: why they could not be replayed; empty if they could.
    """

    company: str
    applied: int
    superseded: int
    refused: int
    problem: str = ""


def replay(
    stream: Stream,
    company: str,
    ids: Collection[str] | None = None,
    *,
    go_on: Callable[[], bool] = lambda: True,
) -> Replayed:
    """Replays rows of one company.

    Args:
        stream: the feed with its parts.
        company: its id.
        ids: of the entries; None: all of the company.
        go_on: asked before each batch of rows; False ends it, with the rest of them in quarantine still.

    Raises:
        LpmStreamError: if the company is not registered, or its database or the table cannot be read or written.
    """
    wanted = None if ids is None else frozenset(ids)
    found = quarantine.entries(stream.store, stream.spec.name, company)
    chosen = [entry for entry in found if wanted is None or entry.id in wanted]
    keyed = [(entry, key) for entry in chosen if (key := _key(stream.spec, entry.row.payload)) is not None]
    done = Replayed(company, 0, 0, len(chosen) - len(keyed))
    if not keyed:
        return done
    with loading(stream, company, "replay") as begun, begun.held() as mark:
        snapshot = Snapshot(stream.spec, stream.table)
        _require_not_behind(stream, company, snapshot, mark)
        for first in range(0, len(keyed), _KEYS_AT_ONCE):
            some = dict(keyed[first : first + _KEYS_AT_ONCE])
            if not go_on():
                raise LpmStreamError(f"the replay of company {company!r} was stopped; run it again for the rest")
            now = _replay(stream.spec, begun, snapshot, some.values())
            more = _settle(stream, company, begun.lease, some, now)
            done = Replayed(
                company,
                done.applied + more.applied,
                done.superseded + more.superseded,
                done.refused + more.refused,
            )
    return done


def replay_all(stream: Stream, chosen: Collection[Entry], *, go_on: Callable[[], bool]) -> list[Replayed]:
    """Replays rows, one company after the other; one that fails does not keep the others waiting.

    Args:
        stream: the feed with its parts.
        chosen: the entries; those that name no company are left out.
        go_on: as in `replay`.
    """
    ids: defaultdict[str, list[str]] = defaultdict(list)
    for entry in chosen:
        ids[entry.row.company].append(entry.id)
    done = []
    for company in sorted(ids.keys() - {""}):
        if not go_on():
            break
        try:
            done.append(replay(stream, company, ids[company], go_on=go_on))
        except LpmStreamError as error:
            done.append(Replayed(company, 0, 0, len(ids[company]), str(error)))
    return done


@dataclass(frozen=True)
class _Now:
    """What has become of rows, by key: those in the table, and why some of them are still refused."""

    in_table: frozenset[Key]
    refused: dict[Key, str]


def _require_not_behind(stream: Stream, company: str, snapshot: Snapshot, mark: Watermark) -> None:
    if snapshot.version < mark.version:
        raise LpmStreamError(
            f"table {stream.table} is at version {snapshot.version}, but company {company!r} has version "
            f"{mark.version}: the table was set back; begin the feed anew with lpm-stream resync, or where "
            f"that was done, load the company with lpm-stream backfill"
        )


def _replay(spec: FeedSpec, begun: Loading, snapshot: Snapshot, wanted: Collection[Key]) -> _Now:
    company = begun.served.company
    schema = pl.Schema({name: snapshot.fit.schema[name] for name in spec.primary_key})
    keys = pl.DataFrame(list(wanted), schema=schema, orient="row").unique()
    batches = snapshot.rows(company, _BATCH_ROWS, keys)
    mine = [rows for batch in batches if (rows := _among(batch, keys)).height]
    found = pl.concat(mine) if mine else pl.DataFrame(schema=snapshot.fit.schema)
    in_table = found.select(keys.columns).cast(schema)
    gone = keys.join(in_table, on=keys.columns, how="anti")
    deletes = gone.with_columns(pl.lit(company).alias(spec.company_column))
    refused = _write(spec, begun, snapshot, found, deletes)
    return _Now(frozenset(in_table.rows()), refused)


def _among(rows: pl.DataFrame, keys: pl.DataFrame) -> pl.DataFrame:
    """The rows that have one of these keys."""
    theirs = rows.select(keys.columns).cast(keys.schema).with_row_index("_at")
    return rows[theirs.join(keys, on=keys.columns, how="semi")["_at"]]


def _write(
    spec: FeedSpec, begun: Loading, snapshot: Snapshot, found: pl.DataFrame, deletes: pl.DataFrame
) -> dict[Key, str]:
    """Writes rows of the pinned version, removes those it does not have; returns why some are still refused."""
    contract = begun.served.entitlement.contract(spec)
    checked = check(contract, snapshot.fit, found.with_columns(pl.lit("insert").alias(CHANGE_TYPE)))
    refused = dict(zip(_keys(spec, checked.bad), checked.bad[REASON], strict=True))
    refused |= dict(zip(_keys(spec, checked.stripped), checked.stripped[REASON], strict=True))
    rows = checked.good.unique(spec.primary_key, keep="last")
    gone = deletes.with_columns(pl.lit(DELETE).alias(CHANGE_TYPE))
    rows = pl.concat([rows, gone], how="diagonal_relaxed")
    rows = rows.with_columns(pl.lit(snapshot.version, pl.Int64).alias(COMMIT_VERSION))
    while True:
        try:
            begun.patiently(partial(_merge_under_hold, begun, rows))
        except RowFaultError as fault:
            faulty = refused_rows(begun.database, rows, _merge, fault, most=rows.height)
            for row, reason in faulty:
                refused[_keys(spec, row)[0]] = reason
            rows = rows.join(pl.concat([row for row, _ in faulty]), on=list(spec.primary_key), how="anti")
        else:
            return refused


def _merge_under_hold(begun: Loading, rows: pl.DataFrame) -> None:
    with begun.writing() as transaction:
        _merge(transaction, rows)


def _merge(transaction: Transaction, rows: pl.DataFrame) -> None:
    transaction.merge(rows)


def _settle(stream: Stream, company: str, lease: Lease, entries: dict[Entry, Key], now: _Now) -> Replayed:
    """Takes out of quarantine what is delivered; under the lease, before anybody else can refuse it again."""
    done = [entry.id for entry, key in entries.items() if key not in now.refused]
    applied = sum(key in now.in_table and key not in now.refused for key in entries.values())
    replayed = Replayed(company, applied, len(done) - applied, len(entries) - len(done))
    reasons = {entry.id: now.refused[key] for entry, key in entries.items() if key in now.refused}
    with stream.store.write() as connection:
        leases.check(connection, lease)
        quarantine.remove(connection, done)
        quarantine.set_reasons(connection, reasons)
        details = {"feed": stream.spec.name} | {
            "applied": replayed.applied,
            "superseded": replayed.superseded,
            "refused": replayed.refused,
        }
        audit.record(connection, "replay", company, details)
    return replayed


def _keys(spec: FeedSpec, rows: pl.DataFrame) -> list[Key]:
    return list(rows.select(spec.primary_key).rows())


def _key(spec: FeedSpec, payload: str) -> Key | None:
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
