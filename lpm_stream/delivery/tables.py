"""The SQL of a company's SQLite database, built from the contract."""

from collections.abc import Mapping, Sequence

import polars as pl
import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from lpm_stream.delivery.indexes import index_prefix
from lpm_stream.errors import TargetFaultError
from lpm_stream.feed.schema import COMMIT_VERSION, declared_type, polars_type
from lpm_stream.feed.spec import ColumnType, FeedSpec

# Strict tables: SQLite then refuses what does not fit instead of storing it as something else. Instants are
# text in UTC, `2026-01-31T23:59:59.123456`, which SQLite's date functions read and which sorts by time. Decimals
# are text with all digits of their scale, `-0.50`: SQLite's own numbers would round them.
_TYPES: Mapping[ColumnType, str] = {
    "string": "TEXT",
    "int32": "INTEGER",
    "int64": "INTEGER",
    "float64": "REAL",
    "boolean": "INTEGER",
    "timestamp": "TEXT",
    "date": "TEXT",
    "decimal": "TEXT",
}
_DIALECT = sqlite.dialect()


class SqliteTables:
    """The statements for one feed and one company."""

    watermark_name = "_lpm_watermark"
    entitlement_name = "_lpm_entitlement"
    to_scrub_name = "_lpm_to_scrub"

    def __init__(self, spec: FeedSpec, company: str) -> None:
        self._spec = spec
        self._company = company
        self.name = spec.name
        self._table = quoted(spec.name)
        self.replacement_name = f"_lpm_new_{spec.name}"
        self._replacement = quoted(self.replacement_name)
        self.indexes = {index_prefix(spec.name) + name: columns for name, columns in spec.every_index.items()}
        self._keys = [quoted(key) for key in spec.primary_key]
        self._matched = list(dict.fromkeys((*spec.primary_key, spec.company_column)))
        self.identity = [*self._matched, COMMIT_VERSION]

    @property
    def create(self) -> list[str]:
        """Creates the company's table with its constraints and indexes."""
        return [self._create_table(self._table), *map(self.create_index, self.indexes)]

    def create_index(self, index: str) -> str:
        """Makes one of `indexes`."""
        columns = ", ".join(quoted(name) for name in self.indexes[index])
        return f"CREATE INDEX {quoted(index)} ON {self._table} ({columns})"

    @property
    def select_indexes(self) -> str:
        """The table's indexes: name in lower case, column; a row for each column, in the index's order."""
        return (
            f"SELECT lower(i.name), c.name FROM pragma_index_list({literal(self.name)}) AS i, "
            f"pragma_index_info(i.name) AS c ORDER BY i.name, c.seqno"
        )

    @staticmethod
    def drop_index(index: str) -> str:
        """Drops one."""
        return f"DROP INDEX {quoted(index)}"

    @property
    def create_replacement(self) -> list[str]:
        """Creates an empty table beside the company's, in place of one that is left over."""
        return [self.drop_replacement, self._create_table(self._replacement)]

    @property
    def drop_replacement(self) -> str:
        """Removes it, if there is one."""
        return f"DROP TABLE IF EXISTS {self._replacement}"

    @property
    def select_customers_own(self) -> str:
        """What a customer has added to the company's table: what it is, and the statement that makes it."""
        ours = ", ".join(literal(index) for index in self.indexes)
        return (
            f"SELECT type || ' ' || name, sql FROM sqlite_schema WHERE type IN ('index', 'trigger') "
            f"AND tbl_name = {literal(self.name)} COLLATE NOCASE AND sql IS NOT NULL "
            f"AND lower(name) NOT IN ({ours}) ORDER BY rowid"
        )

    @property
    def swap(self) -> list[str]:
        """Puts the replacement into the place of the company's table."""
        return [
            f"DROP TABLE IF EXISTS {self._table}",
            f"ALTER TABLE {self._replacement} RENAME TO {self._table}",
            *map(self.create_index, self.indexes),
        ]

    def _create_table(self, name: str) -> str:
        spec = self._spec
        columns = [
            f"{_column(column.name, polars_type(column))}{'' if column.nullable else ' NOT NULL'}"
            for column in spec.columns
        ]
        columns += [
            f"{quoted(COMMIT_VERSION)} INTEGER NOT NULL",
            f"PRIMARY KEY ({', '.join(self._keys)})",
            f"CHECK ({quoted(spec.company_column)} = {literal(self._company)})",
        ]
        return f"CREATE TABLE {name} ({', '.join(columns)}) STRICT"

    @staticmethod
    def stored_type(dtype: ColumnType) -> str:
        """How SQLite stores values of a type."""
        return _TYPES[dtype]

    def add_column(self, name: str, dtype: pl.DataType, *, replacement: bool = False) -> str:
        """Adds a nullable column."""
        table = self._replacement if replacement else self._table
        return f"ALTER TABLE {table} ADD COLUMN {_column(name, dtype)}"

    def select_columns(self, *, replacement: bool = False) -> str:
        """The names and types of the table's columns, and whether they are NOT NULL (1) or not (0)."""
        name = self.replacement_name if replacement else self._spec.name
        return f'SELECT name, type, "notnull" FROM pragma_table_info({literal(name)})'

    @property
    def select_key(self) -> str:
        """The names of the columns of the table's primary key."""
        return f"SELECT name FROM pragma_table_info({literal(self._spec.name)}) WHERE pk > 0"

    @property
    def sweep(self) -> str:
        """Removes rows of earlier versions. Parameters: the version."""
        return f"DELETE FROM {self._table} WHERE {quoted(COMMIT_VERSION)} < ?"

    def upsert(self, columns: Sequence[str], *, replacement: bool = False) -> str:
        """Puts a row into place, unless the stored row is newer. Parameters: the columns."""
        table = self._replacement if replacement else self._table
        changed = [quoted(name) for name in columns if name not in self._spec.primary_key]
        version = quoted(COMMIT_VERSION)
        return (
            f"INSERT INTO {table} ({', '.join(quoted(name) for name in columns)}) "
            f"VALUES ({', '.join('?' * len(columns))}) "
            f"ON CONFLICT ({', '.join(self._keys)}) DO UPDATE SET "
            f"{', '.join(f'{name} = excluded.{name}' for name in changed)} "
            f"WHERE excluded.{version} >= {table}.{version}"
        )

    @property
    def delete(self) -> str:
        """Removes a row of that key and company that is older. Parameters: `identity`."""
        same = " AND ".join(f"{quoted(name)} = ?" for name in self._matched)
        return f"DELETE FROM {self._table} WHERE {same} AND {quoted(COMMIT_VERSION)} < ?"

    @property
    def create_watermarks(self) -> str:
        """Creates the table that says what was applied."""
        return (
            f"CREATE TABLE {self.watermark_name} (feed TEXT PRIMARY KEY, company TEXT NOT NULL, "
            f"epoch INTEGER NOT NULL, version INTEGER NOT NULL, sequence_number INTEGER NOT NULL, "
            f"fence INTEGER NOT NULL, changes INTEGER NOT NULL, pending TEXT NOT NULL, "
            f"hold INTEGER NOT NULL) STRICT"
        )

    @property
    def insert_watermark(self) -> str:
        """The watermark of a database that has applied nothing."""
        return (
            f"INSERT INTO {self.watermark_name} "
            f"VALUES ({literal(self._spec.name)}, {literal(self._company)}, 0, -1, 0, 0, 0, '[]', 0)"
        )

    @property
    def create_entitlements(self) -> str:
        """Creates the table that says with which entitlements the company's table was made."""
        return f"CREATE TABLE {self.entitlement_name} (feed TEXT PRIMARY KEY, generation INTEGER NOT NULL) STRICT"

    @property
    def select_entitlement(self) -> str:
        """The generation of the feed's entitlements."""
        return f"SELECT generation FROM {self.entitlement_name} WHERE feed = {literal(self._spec.name)}"

    def store_entitlement(self, generation: int) -> str:
        """Stores it."""
        return f"REPLACE INTO {self.entitlement_name} VALUES ({literal(self._spec.name)}, {generation:d})"

    def drop_column(self, name: str) -> str:
        """Drops a column; SQLite writes the table anew."""
        return f"ALTER TABLE {self._table} DROP COLUMN {quoted(name)}"

    @property
    def drop_all(self) -> list[str]:
        """Removes the company's rows, and what was known of them."""
        return [
            self.drop_replacement,
            f"DROP TABLE IF EXISTS {self._table}",
            f"DELETE FROM {self.watermark_name} WHERE feed = {literal(self._spec.name)}",
        ]

    @property
    def is_to_be_scrubbed(self) -> str:
        """Says that the file's free space holds what was dropped: by a table's being there, whatever the feed."""
        return f"CREATE TABLE IF NOT EXISTS {self.to_scrub_name} (unused TEXT) STRICT"

    @property
    def is_scrubbed(self) -> str:
        """Says that it has none any more."""
        return f"DROP TABLE IF EXISTS {self.to_scrub_name}"

    @property
    def select_companies(self) -> str:
        """Whose database this is."""
        return f"SELECT DISTINCT company FROM {self.watermark_name}"

    @property
    def select_watermark(self) -> str:
        """The feed's watermark."""
        return (
            f"SELECT epoch, version, sequence_number, fence, changes, pending, hold FROM {self.watermark_name} "
            f"WHERE feed = {literal(self._spec.name)}"
        )

    @property
    def update_watermark(self) -> str:
        """Stores the watermark unless a larger fence has been here; one UPDATE, so it can be lost by no one."""
        return (
            f"UPDATE {self.watermark_name} SET epoch = ?, version = ?, sequence_number = ?, fence = ?, "
            f"changes = ?, pending = ?, hold = ? "
            f"WHERE feed = {literal(self._spec.name)} AND fence <= ? RETURNING feed"
        )


def _column(name: str, dtype: pl.DataType) -> str:
    """Name and type of a column; the text of a decimal has to have as many digits behind the point as it says."""
    declared = declared_type(dtype)
    if declared is None:
        raise TargetFaultError(f"column {name} of type {dtype} has no SQLite type")
    if not isinstance(dtype, pl.Decimal):
        return f"{quoted(name)} {_TYPES[declared]}"
    form = f"GLOB '*[0-9].{'[0-9]' * dtype.scale}'" if dtype.scale else "NOT GLOB '*[^0-9-]*'"
    return f"{quoted(name)} {_TYPES[declared]} CHECK ({quoted(name)} {form})"


def quoted(name: str) -> str:
    """An identifier, quoted."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as SQL literal, for the places where SQLite takes no parameter."""
    return str(sa.literal(text).compile(dialect=_DIALECT, compile_kwargs={"literal_binds": True}))
