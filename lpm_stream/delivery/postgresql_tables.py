"""The SQL of a company's PostgreSQL database, built from the contract."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import polars as pl

from lpm_stream.delivery.indexes import index_prefix
from lpm_stream.feed.schema import COMMIT_VERSION, POLARS_TYPES, declared_type, is_widened, polars_type
from lpm_stream.feed.spec import ColumnType, FeedSpec
from lpm_stream.postgresql import LONGEST_NAME, listed, literal, quoted

# As `format_type` spells them; for decimals see `stored_type`.
_TYPES: Mapping[ColumnType, str] = MappingProxyType(
    {
        "string": "text",
        "int32": "integer",
        "int64": "bigint",
        "float64": "double precision",
        "boolean": "boolean",
        "timestamp": "timestamp with time zone",
        "date": "date",
    }
)
_DECLARED: Mapping[str, ColumnType] = MappingProxyType({stored: declared for declared, stored in _TYPES.items()})
_DECIMAL = re.compile(r"numeric\((\d+),(\d+)\)")

# What every value of a type fits into, exactly.
_WIDER: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "smallint": frozenset({"integer", "bigint", "double precision"}),
        "integer": frozenset({"bigint", "double precision"}),
        "real": frozenset({"double precision"}),
        "character varying": frozenset({"text"}),
    }
)

UPSERTS, DELETES = "_lpm_upserts", "_lpm_deletes"  # the temporary tables


class PostgresqlTables:
    """The statements for one feed and one company."""

    watermark_name = "_lpm_watermark"
    entitlement_name = "_lpm_entitlement"

    def __init__(self, spec: FeedSpec, company: str) -> None:
        self._spec = spec
        self._company = company
        self.name = spec.name
        self.replacement_name = _fitting(f"_lpm_new_{spec.name}")
        prefix = index_prefix(spec.name)
        self.indexes = {_fitting(prefix + name): columns for name, columns in spec.every_index.items()}
        self._matched = list(dict.fromkeys((*spec.primary_key, spec.company_column)))
        self.identity = [*self._matched, COMMIT_VERSION]

    @property
    def create(self) -> list[str]:
        """Creates the company's table with its constraints and indexes."""
        return [self._create_table(self.name), *map(self.create_index, self.indexes)]

    def create_index(self, index: str) -> str:
        """Makes one of `indexes`."""
        return self._create_index(index, index, self.name)

    @property
    def select_indexes(self) -> str:
        """The table's indexes: name, column; a row for each column, in the index's order."""
        return (
            f"SELECT relname::text, attname::text FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
            f"CROSS JOIN unnest(indkey) WITH ORDINALITY AS part(number, place) "
            f"JOIN pg_attribute ON attrelid = indrelid AND attnum = part.number "
            f"WHERE indrelid = {_relation(self.name)} AND indisvalid ORDER BY relname, place"
        )

    @staticmethod
    def drop_index(index: str) -> str:
        """Drops one."""
        return f"DROP INDEX {quoted(index)}"

    @property
    def create_replacement(self) -> list[str]:
        """Creates an empty table beside the company's, in place of one that is left over."""
        return [self.drop_replacement, self._create_table(self.replacement_name)]

    @property
    def drop_replacement(self) -> str:
        """Removes it, if there is one."""
        return f"DROP TABLE IF EXISTS {quoted(self.replacement_name)}"

    @property
    def select_customers_own(self) -> str:
        """What a customer has added to the company's table: what it is, and the statement that makes it.

        Indexes, triggers, and constraints that the replacement does not have anyway.
        """
        old, new = _relation(self.name), _relation(self.replacement_name)
        return (
            f"SELECT 'constraint ' || conname, 'ALTER TABLE ' || {literal(quoted(self.name))} || "
            f"' ADD CONSTRAINT ' || quote_ident(conname) || ' ' || pg_get_constraintdef(oid) "
            f"FROM pg_constraint WHERE conrelid = {old} AND contype IN ('c', 'u', 'x', 'f') "
            f"AND pg_get_constraintdef(oid) NOT IN "
            f"(SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = {new}) "
            f"UNION ALL SELECT 'index ' || relname, pg_get_indexdef(indexrelid) "
            f"FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid WHERE indrelid = {old} "
            f"AND relname NOT IN ({', '.join(map(literal, self.indexes))}) "
            f"AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid AND conrelid = indrelid) "
            f"UNION ALL SELECT 'trigger ' || tgname, pg_get_triggerdef(oid) "
            f"FROM pg_trigger WHERE tgrelid = {old} AND NOT tgisinternal"
        )

    @property
    def swap(self) -> list[str]:
        """Puts the replacement into the place of the company's table, for the same readers.

        What takes long comes before the table is locked.
        """
        built = {index: _fitting(f"_lpm_{index}") for index in self.indexes}
        return [
            *(self._create_index(index, name, self.replacement_name) for index, name in built.items()),
            self._copy_grants,
            f"DROP TABLE IF EXISTS {quoted(self.name)}",
            f"ALTER TABLE {quoted(self.replacement_name)} RENAME TO {quoted(self.name)}",
            *(f"ALTER INDEX {quoted(name)} RENAME TO {quoted(index)}" for index, name in built.items()),
        ]

    @property
    def _copy_grants(self) -> str:
        """Grants on the replacement what is granted on the company's table."""
        return (
            f"DO $lpm$ DECLARE given record; BEGIN "
            f"FOR given IN SELECT privilege_type AS what, CASE grantee WHEN 0 THEN 'PUBLIC' "
            f"ELSE quote_ident(pg_get_userbyid(grantee)) END AS role, "
            f"CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END AS passing_on "
            f"FROM pg_class, aclexplode(relacl) WHERE pg_class.oid = {_relation(self.name)} "
            f"AND grantee <> relowner "
            f"LOOP EXECUTE 'GRANT ' || given.what || ' ON ' || "
            f"{literal(quoted(self.replacement_name))} || ' TO ' || given.role || given.passing_on; "
            f"END LOOP; END $lpm$"
        )

    def _create_index(self, index: str, name: str, table: str) -> str:
        return f"CREATE INDEX {quoted(name)} ON {quoted(table)} ({listed(self.indexes[index])})"

    def _create_table(self, name: str) -> str:
        spec = self._spec
        columns = [
            f"{quoted(column.name)} {stored_type(polars_type(column))}{self._collation(column.name)}"
            f"{'' if column.nullable else ' NOT NULL'}"
            for column in spec.columns
        ]
        columns += [
            f"{quoted(COMMIT_VERSION)} bigint NOT NULL",
            f"PRIMARY KEY ({listed(spec.primary_key)})",
            f"CHECK ({quoted(spec.company_column)} = {literal(self._company)})",
        ]
        return f"CREATE TABLE {quoted(name)} ({', '.join(columns)})"

    def _collation(self, name: str) -> str:
        """Keys and companies are alike if their bytes are, whatever the database's collation."""
        is_text = self._spec.column(name).type == "string"
        return ' COLLATE "C"' if is_text and name in self._matched else ""

    @staticmethod
    def add_column(table: str, name: str, stored: str) -> str:
        """Adds a nullable column; PostgreSQL does not rewrite the table for it."""
        return f"ALTER TABLE {quoted(table)} ADD COLUMN {quoted(name)} {stored}"

    @staticmethod
    def change_type(table: str, name: str, stored: str) -> str:
        """Widens a column."""
        return f"ALTER TABLE {quoted(table)} ALTER COLUMN {quoted(name)} TYPE {stored}"

    @staticmethod
    def drop_not_null(table: str, name: str) -> str:
        """Lets a column be NULL."""
        return f"ALTER TABLE {quoted(table)} ALTER COLUMN {quoted(name)} DROP NOT NULL"

    @staticmethod
    def select_columns(table: str) -> str:
        """Names and types of a table's columns, whether NOT NULL, and whether left out means that it fails."""
        return (
            f"SELECT attname::text, format_type(atttypid, atttypmod), attnotnull, "
            f"attnotnull AND NOT atthasdef AND attidentity = '' FROM pg_attribute "
            f"WHERE attrelid = {_relation(table)} AND attnum > 0 AND NOT attisdropped"
        )

    @staticmethod
    def select_key(table: str) -> str:
        """The names of the columns of a table's primary key."""
        return (
            f"SELECT attname::text FROM pg_constraint JOIN pg_attribute ON attrelid = conrelid "
            f"AND attnum = ANY (conkey) WHERE conrelid = {_relation(table)} AND contype = 'p'"
        )

    @staticmethod
    def exists(table: str) -> str:
        """Whether there is such a table."""
        return f"SELECT {_relation(table)} IS NOT NULL"

    @property
    def sweep(self) -> str:
        """Removes rows of earlier versions. Parameters: the version."""
        return f"DELETE FROM {quoted(self.name)} WHERE {quoted(COMMIT_VERSION)} < $1"

    @staticmethod
    def create_stage(stage: str, columns: Mapping[str, str]) -> list[str]:
        """Creates a temporary table for rows to come; it is emptied by each commit. `columns`: name to type."""
        typed = ", ".join(f"{quoted(name)} {stored}" for name, stored in columns.items())
        return [
            f"DROP TABLE IF EXISTS pg_temp.{quoted(stage)}",
            f"CREATE TEMPORARY TABLE {quoted(stage)} ({typed}) ON COMMIT DELETE ROWS",
        ]

    def upsert(self, table: str, columns: Sequence[str]) -> str:
        """Puts the rows of `UPSERTS` into place, each unless the stored row is newer."""
        changed = [quoted(name) for name in columns if name not in self._spec.primary_key]
        version = quoted(COMMIT_VERSION)
        return (
            f"INSERT INTO {quoted(table)} AS stored ({listed(columns)}) "
            f"SELECT {listed(columns)} FROM pg_temp.{quoted(UPSERTS)} "
            f"ON CONFLICT ({listed(self._spec.primary_key)}) DO UPDATE SET "
            f"{', '.join(f'{name} = excluded.{name}' for name in changed)} "
            f"WHERE excluded.{version} >= stored.{version}"
        )

    @property
    def delete(self) -> str:
        """Removes the rows of that key and company that are older than those of `DELETES`."""
        same = " AND ".join(f"stored.{quoted(name)} = gone.{quoted(name)}" for name in self._matched)
        version = quoted(COMMIT_VERSION)
        return (
            f"DELETE FROM {quoted(self.name)} AS stored USING pg_temp.{quoted(DELETES)} AS gone "
            f"WHERE {same} AND stored.{version} < gone.{version}"
        )

    @property
    def begin_preparing(self) -> str:
        """Waits for others that prepare the same database."""
        return f"SELECT pg_advisory_xact_lock(hashtext({literal(self.watermark_name)}))::text"

    @property
    def create_watermarks(self) -> str:
        """Creates the table that says what was applied."""
        return (
            f"CREATE TABLE {self.watermark_name} (feed text PRIMARY KEY, company text NOT NULL, "
            f"epoch bigint NOT NULL, version bigint NOT NULL, sequence_number bigint NOT NULL, "
            f"fence bigint NOT NULL, changes bigint NOT NULL, pending text NOT NULL, hold bigint NOT NULL)"
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
        return f"CREATE TABLE {self.entitlement_name} (feed text PRIMARY KEY, generation bigint NOT NULL)"

    @property
    def select_entitlement(self) -> str:
        """The generation of the feed's entitlements."""
        return f"SELECT generation FROM {self.entitlement_name} WHERE feed = {literal(self._spec.name)}"

    def store_entitlement(self, generation: int) -> str:
        """Stores it."""
        return (
            f"INSERT INTO {self.entitlement_name} VALUES ({literal(self._spec.name)}, {generation:d}) "
            f"ON CONFLICT (feed) DO UPDATE SET generation = excluded.generation"
        )

    @staticmethod
    def drop_column(table: str, name: str) -> str:
        """Drops a column."""
        return f"ALTER TABLE {quoted(table)} DROP COLUMN {quoted(name)}"

    @property
    def drop_all(self) -> list[str]:
        """Removes the company's rows, and what was known of them."""
        return [
            self.drop_replacement,
            f"DROP TABLE IF EXISTS {quoted(self.name)}",
            f"DELETE FROM {self.watermark_name} WHERE feed = {literal(self._spec.name)}",
        ]

    @property
    def select_companies(self) -> str:
        """Whose database this is."""
        return f"SELECT DISTINCT company FROM {self.watermark_name}"

    @property
    def lock_watermark(self) -> str:
        """The feed's watermark, which nobody else can lock or write until the transaction's end."""
        return (
            f"SELECT epoch, version, sequence_number, fence, changes, pending, hold FROM {self.watermark_name} "
            f"WHERE feed = {literal(self._spec.name)} FOR UPDATE"
        )

    @property
    def update_watermark(self) -> str:
        """Stores the watermark unless a larger fence has been here; one UPDATE, so it can be lost by no one."""
        return (
            f"UPDATE {self.watermark_name} SET epoch = $1, version = $2, sequence_number = $3, fence = $4, "
            f"changes = $5, pending = $6, hold = $7 "
            f"WHERE feed = {literal(self._spec.name)} AND fence <= $4 RETURNING feed"
        )


def widens(stored: str, wanted: str) -> bool:
    """Whether every value of one stored type fits exactly into the other."""
    if _DECIMAL.fullmatch(stored) and _DECIMAL.fullmatch(wanted):
        return is_widened(loaded_type(stored), loaded_type(wanted))
    base = stored.partition("(")[0]  # character varying(40)
    return wanted in _WIDER.get(base, ())


def stored_type(dtype: pl.DataType) -> str | None:
    """How values of a type are stored; None if they cannot be."""
    if isinstance(dtype, pl.Decimal):
        return f"numeric({dtype.precision},{dtype.scale})"
    declared = declared_type(dtype)
    return _TYPES[declared] if declared else None


def loaded_type(stored: str) -> pl.DataType:
    """In which type values go to a column of a stored type, one of those that `stored_type` returns."""
    if found := _DECIMAL.fullmatch(stored):
        return pl.Decimal(int(found[1]), int(found[2]))
    return POLARS_TYPES[_DECLARED[stored]]


def _relation(table: str) -> str:
    """A table's OID, NULL if there is none."""
    return f"to_regclass({literal(quoted(table))})"


def _fitting(name: str) -> str:
    """A name that PostgreSQL does not cut off: what is too long ends in a digest instead. Names here are ASCII."""
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[: LONGEST_NAME - 9]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
