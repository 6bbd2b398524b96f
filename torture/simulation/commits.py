"""Random commits to a small table of orders."""

import random

import polars as pl
from deltalake import DeltaTable, write_deltalake

from lpm_stream_tests.example import SPEC, orders, source_rows

COMPANIES = ("A", "B", "it's C")
_KEYS = [f"k{number}" for number in range(14)]
_TOO_LONG = "x" * 1_001  # more than the contract lets a note have


def rows(chance: random.Random, keys: list[str]) -> pl.DataFrame:
    """New rows for these keys; now and then one that breaks the contract."""
    notes = [_TOO_LONG if chance.random() < 0.05 else f"note {chance.randrange(100)}" for _ in keys]
    return orders(keys, [chance.choice(COMPANIES) for _ in keys]).with_columns(
        pl.Series("amount", [chance.randrange(100) for _ in keys], dtype=pl.Int64),
        pl.Series("note", notes, dtype=pl.String),
    )


def commit(chance: random.Random, location: str) -> None:
    """One commit of any kind."""
    chance.choice([_merge, _merge, _update, _move, _delete, _replace, _overwrite])(chance, location)


def mend(location: str) -> None:
    """Corrects what breaks the contract."""
    DeltaTable(location).update(updates={"note": "'mended'"}, predicate="note LIKE 'xx%'")


def _merge(chance: random.Random, location: str) -> None:
    """Inserts, updates, moves and deletes at once."""
    upserts = chance.sample(_KEYS, chance.randint(1, 6))
    deletes = chance.sample([key for key in _KEYS if key not in upserts], chance.randint(0, 4))
    source = pl.concat(
        [
            rows(chance, upserts).with_columns(gone=pl.lit(value=False)),
            orders(deletes, "A").with_columns(gone=pl.lit(value=True)),
        ]
    )
    columns = {name: f"source.{name}" for name in SPEC.column_names}
    merger = DeltaTable(location).merge(
        source.to_arrow(), "target.id = source.id", source_alias="source", target_alias="target"
    )
    merger.when_matched_delete("source.gone").when_matched_update(columns, "NOT source.gone")
    merger.when_not_matched_insert(columns, "NOT source.gone").execute()


def _update(chance: random.Random, location: str) -> None:
    amount = str(chance.randrange(100))
    DeltaTable(location).update(updates={"amount": amount}, predicate=f"id IN ({_some(chance)})")


def _move(chance: random.Random, location: str) -> None:
    company = chance.choice(COMPANIES).replace("'", "''")
    DeltaTable(location).update(updates={"customer": f"'{company}'"}, predicate=f"id IN ({_some(chance)})")


def _delete(chance: random.Random, location: str) -> None:
    DeltaTable(location).delete(f"id IN ({_some(chance)})")


def _replace(chance: random.Random, location: str) -> None:
    """Deletes rows and inserts others of the same keys, at once."""
    keys = sorted(source_rows(location)["id"])
    chosen = chance.sample(keys, min(len(keys), 4))
    predicate = "id IN ({})".format(", ".join(f"'{key}'" for key in chosen) or "''")
    write_deltalake(location, rows(chance, chosen).to_arrow(), mode="overwrite", predicate=predicate)


def _overwrite(chance: random.Random, location: str) -> None:
    """All rows of the table."""
    write_deltalake(location, rows(chance, chance.sample(_KEYS, 8)).to_arrow(), mode="overwrite")


def _some(chance: random.Random) -> str:
    return ", ".join(f"'{key}'" for key in chance.sample(_KEYS, chance.randint(1, 6)))
