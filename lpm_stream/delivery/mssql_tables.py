"""The SQL of a company's SQL Server database, built from the contract."""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import polars as pl

from lpm_stream.delivery.indexes import index_prefix
from lpm_stream.feed.schema import COMMIT_VERSION, POLARS_TYPES, declared_type, is_widened, polars_type
from lpm_stream.feed.spec import Column, ColumnType, FeedSpec
from lpm_stream.mssql import LONGEST_NAME, listed, literal, quoted

# Instants are in UTC, as everything is here: DATETIMEOFFSET would say so, but one driver drops the offset. For
# decimals see `stored_type`.
_TYPES: Mapping[ColumnType, str] = MappingProxyType(
    {
        "string": "nvarchar(max)",
        "int32": "int",
        "int64": "bigint",
        "float64": "float",
        "boolean": "bit",
        "timestamp": "datetime2(6)",
        "date": "date",
    }
)
_DECLARED: Mapping[str, ColumnType] = MappingProxyType({stored: declared for declared, stored in _TYPES.items()})
_DECIMAL = re.compile(r"decimal\((\d+),(\d+)\)")

# What every value of a type fits into, exactly; texts by their length, below.
_WIDER: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "tinyint": frozenset({"int", "bigint", "float"}),
        "smallint": frozenset({"int", "bigint", "float"}),
        "int": frozenset({"bigint", "float"}),
        "real": frozenset({"float"}),
        **{f"datetime2({digits})": frozenset({"datetime2(6)"}) for digits in range(6)},
    }
)

# By code points, so that case, accents and width matter, whatever the database's collation.
_COLLATION = "Latin1_General_100_BIN2"

# In byte pairs, of which a character outside of the Basic Multilingual Plane takes two. A key has at most 900
# bytes: the row of a longer one is refused (error 1946).
_LONGEST_TEXT, _LONGEST_KEY_TEXT = 4_000, 450

BATCH = "_lpm_batch"


class MssqlTables:
    """The statements for one feed and one company."""

    watermark_name = "_lpm_watermark"
    entitlement_name = "_lpm_entitlement"

    def __init__(self, spec: FeedSpec, company: str) -> None:
        self._spec = spec
        self._company = company
        self.name = spec.name
        self.replacement_name = f"_lpm_new_{spec.name}"
        self.upserts, self.deletes = f"_lpm_upserts_{spec.name}", f"_lpm_deletes_{spec.name}"  # staging tables
        self.indexes = {_index_name(spec, name): columns for name, columns in spec.every_index.items()}
        self._matched = list(dict.fromkeys((*spec.primary_key, spec.company_column)))
        self.identity = [*self._matched, COMMIT_VERSION]

    def stored_type(self, column: Column) -> str:
        """How a column of the contract is stored."""
        if column.type != "string":
            return stored_type(polars_type(column)) or ""
        units = 2 * column.max_length if column.max_length else None
        if column.name in self._spec.primary_key:
            return f"nvarchar({min(units or _LONGEST_KEY_TEXT, _LONGEST_KEY_TEXT)})"
        return f"nvarchar({units})" if units and units <= _LONGEST_TEXT else _TYPES["string"]

    @property
    def create(self) -> list[str]:
        """Creates the company's table with its constraints and indexes."""
        return [self._create_table(self.name), *map(self.create_index, self.indexes)]

    def create_index(self, index: str) -> str:
        """Makes one of `indexes`."""
        return self._create_index(index, self.name)

    @property
    def select_indexes(self) -> str:
        """The table's indexes: name, column; a row for each column, in the index's order.

        The names are in lower case, unless the database's collation tells names apart by it.
        """
        return (
            f"SELECT CASE WHEN i.name = LOWER(i.name) THEN LOWER(i.name) ELSE i.name END, c.name "
            f"FROM sys.indexes AS i INNER JOIN sys.index_columns AS p "
            f"ON p.object_id = i.object_id AND p.index_id = i.index_id AND p.is_included_column = 0 "
            f"INNER JOIN sys.columns AS c ON c.object_id = p.object_id AND c.column_id = p.column_id "
            f"WHERE i.object_id = OBJECT_ID({literal(quoted(self.name))}) AND i.name IS NOT NULL "
            f"ORDER BY i.name, p.key_ordinal"
        )

    def drop_index(self, index: str) -> str:
        """Drops one."""
        return f"DROP INDEX {quoted(index)} ON {quoted(self.name)}"

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
        """What a customer has added to the company's table: indexes, triggers, and constraints with a name."""
        table = f"OBJECT_ID({literal(quoted(self.name))})"
        return (
            f"SELECT N'index ' + name FROM sys.indexes WHERE object_id = {table} AND index_id > 0 "
            f"AND is_primary_key = 0 AND name NOT IN ({', '.join(map(literal, self.indexes))}) "
            f"UNION ALL SELECT N'trigger ' + name FROM sys.triggers WHERE parent_id = {table} "
            f"UNION ALL SELECT N'constraint ' + name FROM sys.check_constraints "
            f"WHERE parent_object_id = {table} AND is_system_named = 0 "
            f"UNION ALL SELECT N'constraint ' + name FROM sys.foreign_keys WHERE parent_object_id = {table}"
        )

    @property
    def swap(self) -> list[str]:
        """Puts the replacement into the place of the company's table. What takes long comes first."""
        return [
            *(self._create_index(index, self.replacement_name) for index in self.indexes),
            f"DROP TABLE IF EXISTS {quoted(self.name)}",
            f"EXEC sp_rename {literal(quoted(self.replacement_name))}, {literal(self.name)}",
        ]

    @property
    def select_grants(self) -> str:
        """What is granted on the company's table as a whole: state, permission, to whom."""
        return (
            f"SELECT p.state, p.permission_name, r.name FROM sys.database_permissions AS p "
            f"INNER JOIN sys.database_principals AS r ON r.principal_id = p.grantee_principal_id "
            f"WHERE p.class = 1 AND p.minor_id = 0 AND p.major_id = OBJECT_ID({literal(quoted(self.name))})"
        )

    def grant(self, state: str, permission: str, grantee: str) -> str:
        """Grants, or denies, the same on the replacement."""
        verb, option = ("DENY", "") if state == "D" else ("GRANT", " WITH GRANT OPTION" if state == "W" else "")
        return f"{verb} {permission} ON {quoted(self.replacement_name)} TO {quoted(grantee)}{option}"

    def _create_index(self, index: str, table: str) -> str:
        return f"CREATE INDEX {quoted(index)} ON {quoted(table)} ({listed(self.indexes[index])})"

    def _create_table(self, name: str) -> str:
        spec = self._spec
        columns = [
            f"{quoted(column.name)} {self.stored_type(column)}{self._collation(column)}"
            f"{' NULL' if column.nullable else ' NOT NULL'}"
            for column in spec.columns
        ]
        company, its_id = quoted(spec.company_column), literal(self._company)
        columns += [
            f"{quoted(COMMIT_VERSION)} bigint NOT NULL",
            *(
                f"{quoted(_length(key))} AS DATALENGTH({quoted(key)}) PERSISTED NOT NULL"
                for key in self._spec.primary_key
                if self._is_text(key)
            ),
            f"PRIMARY KEY ({listed(self._unique)})",
            f"CHECK ({company} = {its_id} AND DATALENGTH({company}) = DATALENGTH({its_id}))",
        ]
        return f"CREATE TABLE {quoted(name)} ({', '.join(columns)})"

    @property
    def _unique(self) -> list[str]:
        """The key, with the length of each text: SQL Server ignores blanks at the end when it compares."""
        keys = self._spec.primary_key
        return [*keys, *(_length(key) for key in keys if self._is_text(key))]

    def _is_text(self, name: str) -> bool:
        return self._spec.column(name).type == "string"

    def _collation(self, column: Column) -> str:
        return f" COLLATE {_COLLATION}" if column.type == "string" and column.name in self._matched else ""

    @staticmethod
    def add_column(table: str, name: str, stored: str) -> str:
        """Adds a nullable column; SQL Server changes nothing but its catalogue for it."""
        return f"ALTER TABLE {quoted(table)} ADD {quoted(name)} {stored} NULL"

    def alter_column(self, table: str, name: str, stored: str, *, not_null: bool) -> str:
        """Widens a column, or lets it be NULL. Whatever is not said again would be lost."""
        collation = f" COLLATE {_COLLATION}" if name in self._matched and stored.startswith("nvarchar") else ""
        return (
            f"ALTER TABLE {quoted(table)} ALTER COLUMN {quoted(name)} {stored}{collation} "
            f"{'NOT NULL' if not_null else 'NULL'}"
        )

    @staticmethod
    def select_columns(table: str) -> str:
        """A table's columns: name, type, length, digits of a second, and of a decimal in all and behind its point.

        Then whether it is NOT NULL, and filled by itself.
        """
        return (
            f"SELECT COLUMN_NAME, DATA_TYPE, CHARACTER_MAXIMUM_LENGTH, DATETIME_PRECISION, "
            f"NUMERIC_PRECISION, NUMERIC_SCALE, "
            f"CASE WHEN IS_NULLABLE = 'NO' THEN 1 ELSE 0 END, "
            f"CASE WHEN COLUMN_DEFAULT IS NOT NULL OR DATA_TYPE = 'timestamp' "
            f"OR COLUMNPROPERTY(OBJECT_ID({literal(quoted(table))}), COLUMN_NAME, 'IsIdentity') = 1 "
            f"OR COLUMNPROPERTY(OBJECT_ID({literal(quoted(table))}), COLUMN_NAME, 'IsComputed') = 1 "
            f"THEN 1 ELSE 0 END FROM INFORMATION_SCHEMA.COLUMNS "
            f"WHERE TABLE_SCHEMA = SCHEMA_NAME() AND TABLE_NAME = {literal(table)}"
        )

    @staticmethod
    def select_key(table: str) -> str:
        """The names of the columns of a table's primary key, without those that are computed from them."""
        return (
            f"SELECT c.name FROM sys.indexes AS i INNER JOIN sys.index_columns AS p "
            f"ON p.object_id = i.object_id AND p.index_id = i.index_id INNER JOIN sys.columns AS c "
            f"ON c.object_id = p.object_id AND c.column_id = p.column_id "
            f"WHERE i.object_id = OBJECT_ID({literal(quoted(table))}) AND i.is_primary_key = 1 "
            f"AND c.is_computed = 0"
        )

    @staticmethod
    def exists(table: str) -> str:
        """Whether there is such a table."""
        return (
            f"SELECT COUNT(*) FROM INFORMATION_SCHEMA.TABLES "
            f"WHERE TABLE_SCHEMA = SCHEMA_NAME() AND TABLE_NAME = {literal(table)}"
        )

    @property
    def sweep(self) -> str:
        """Removes rows of earlier versions. Parameters: the version."""
        return f"DELETE FROM {quoted(self.name)} WHERE {quoted(COMMIT_VERSION)} < ?"

    @staticmethod
    def from_json(columns: Mapping[str, str]) -> str:
        """Rows out of a parameter, which `mssql_rows.as_json` makes. `columns`: name to type.

        Texts come in full length: here too long a value would become NULL, where it is stored it is an error.
        """
        typed = ", ".join(
            f"{quoted(name)} {_TYPES['string'] if stored.startswith('nvarchar') else stored} '$.c{place}'"
            for place, (name, stored) in enumerate(columns.items())
        )
        return f"SELECT {listed(columns)} FROM OPENJSON(CAST(? AS nvarchar(max))) WITH ({typed})"

    @staticmethod
    def from_stage(stage: str, columns: Mapping[str, str]) -> str:
        """Rows of a batch out of a staging table. Parameters: the batch."""
        return f"SELECT {listed(columns)} FROM {quoted(stage)} WHERE {quoted(BATCH)} = ?"

    def create_stage(self, stage: str, columns: Mapping[str, str]) -> list[str]:
        """Creates a staging table, in place of one of other columns. `columns`: name to type."""
        typed = ", ".join(f"{quoted(name)} {stored} NULL" for name, stored in columns.items())
        return [
            f"DROP TABLE IF EXISTS {quoted(stage)}",
            f"CREATE TABLE {quoted(stage)} ({quoted(BATCH)} nvarchar(32) NOT NULL, {typed})",
            f"CREATE CLUSTERED INDEX {quoted(f'ix_{stage}'[:128])} ON {quoted(stage)} ({quoted(BATCH)})",
        ]

    @staticmethod
    def empty_stage(stage: str) -> str:
        """Removes all batches."""
        return f"TRUNCATE TABLE {quoted(stage)}"

    @staticmethod
    def delete_batch(stage: str) -> str:
        """Removes a batch. Parameters: the batch."""
        return f"DELETE FROM {quoted(stage)} WHERE {quoted(BATCH)} = ?"

    def upsert(self, table: str, columns: Sequence[str], source: str) -> str:
        """Puts the rows of a source into place, each unless the stored row is newer.

        HOLDLOCK keeps others from inserting a key between the look and the insert.
        """
        changed = [quoted(name) for name in columns if name not in self._spec.primary_key]
        version = quoted(COMMIT_VERSION)
        return (
            f"MERGE INTO {quoted(table)} WITH (HOLDLOCK) AS stored USING ({source}) AS incoming "
            f"ON {self._same(self._spec.primary_key, 'stored', 'incoming')} "
            f"WHEN MATCHED AND incoming.{version} >= stored.{version} THEN UPDATE SET "
            f"{', '.join(f'{name} = incoming.{name}' for name in changed)} "
            f"WHEN NOT MATCHED THEN INSERT ({listed(columns)}) "
            f"VALUES ({', '.join(f'incoming.{quoted(name)}' for name in columns)});"
        )

    def delete(self, source: str) -> str:
        """Removes the rows of that key and company that are older than those of a source."""
        version = quoted(COMMIT_VERSION)
        return (
            f"DELETE FROM {quoted(self.name)} WHERE EXISTS (SELECT 1 FROM ({source}) AS gone "
            f"WHERE {self._same(self._matched, quoted(self.name), 'gone')} "
            f"AND {quoted(self.name)}.{version} < gone.{version});"
        )

    def _same(self, names: Sequence[str], stored: str, other: str) -> str:
        return " AND ".join(
            self._equal(name, f"{stored}.{quoted(name)}", f"{other}.{quoted(name)}") for name in names
        )

    def _equal(self, name: str, stored: str, other: str) -> str:
        """Whether two values are the same; a text of the stored size, or no index would help."""
        if not self._is_text(name):
            return f"{stored} = {other}"
        size = self.stored_type(self._spec.column(name))
        same = f"{stored} = CAST({other} AS {size}) COLLATE {_COLLATION}"
        return f"{same} AND DATALENGTH({stored}) = DATALENGTH({other})"

    @property
    def begin_preparing(self) -> str:
        """Waits for others that prepare the same database; negative if in vain.

        The lock needs a transaction, which a driver's first SELECT from a table begins.
        """
        return (
            f"DECLARE @got int; SELECT @got = COUNT(*) FROM sys.tables; "
            f"EXEC @got = sp_getapplock @Resource = {literal(self.watermark_name)}, @LockMode = 'Exclusive', "
            f"@LockTimeout = 10000; SELECT @got"
        )

    @property
    def create_watermarks(self) -> str:
        """Creates the table that says what was applied."""
        return (
            f"CREATE TABLE {self.watermark_name} (feed nvarchar(63) COLLATE {_COLLATION} NOT NULL PRIMARY KEY, "
            f"company nvarchar(900) COLLATE {_COLLATION} NOT NULL, epoch bigint NOT NULL, "
            f"version bigint NOT NULL, sequence_number bigint NOT NULL, fence bigint NOT NULL, "
            f"changes bigint NOT NULL, pending nvarchar(max) NOT NULL, hold bigint NOT NULL)"
        )

    @property
    def insert_watermark(self) -> str:
        """The watermark of a database that has applied nothing."""
        return (
            f"INSERT INTO {self.watermark_name} "
            f"(feed, company, epoch, version, sequence_number, fence, changes, pending, hold) "
            f"VALUES ({literal(self._spec.name)}, {literal(self._company)}, 0, -1, 0, 0, 0, N'[]', 0)"
        )

    @property
    def create_entitlements(self) -> str:
        """Creates the table that says with which entitlements the company's table was made."""
        return (
            f"CREATE TABLE {self.entitlement_name} (feed nvarchar(63) COLLATE {_COLLATION} NOT NULL PRIMARY KEY, "
            f"generation bigint NOT NULL)"
        )

    @property
    def select_entitlement(self) -> str:
        """The generation of the feed's entitlements."""
        return f"SELECT generation FROM {self.entitlement_name} WHERE feed = {literal(self._spec.name)}"

    def store_entitlement(self, generation: int) -> list[str]:
        """Stores it, in place of an older one."""
        feed = literal(self._spec.name)
        return [
            f"DELETE FROM {self.entitlement_name} WHERE feed = {feed}",
            f"INSERT INTO {self.entitlement_name} (feed, generation) VALUES ({feed}, {generation:d})",
        ]

    @staticmethod
    def drop_column(table: str, name: str) -> str:
        """Drops a column."""
        return f"ALTER TABLE {quoted(table)} DROP COLUMN {quoted(name)}"

    @property
    def drop_all(self) -> list[str]:
        """Removes the company's rows, and what was known of them."""
        tables = (self.replacement_name, self.upserts, self.deletes, self.name)
        return [
            *(f"DROP TABLE IF EXISTS {quoted(name)}" for name in tables),
            f"DELETE FROM {self.watermark_name} WHERE feed = {literal(self._spec.name)}",
        ]

    @property
    def select_companies(self) -> str:
        """Whose database this is."""
        return f"SELECT DISTINCT company FROM {self.watermark_name}"

    @property
    def lock_watermark(self) -> str:
        """The feed's watermark, which nobody else can lock or write until the transaction's end.

        An UPDATE that changes nothing: it waits on every server and under every isolation, where a hint to a
        SELECT does on some only.
        """
        names = ("epoch", "version", "sequence_number", "fence", "changes", "pending", "hold")
        return (
            f"UPDATE {self.watermark_name} SET fence = fence "
            f"OUTPUT {', '.join(f'inserted.{name}' for name in names)} "
            f"WHERE feed = {literal(self._spec.name)}"
        )

    @property
    def update_watermark(self) -> str:
        """Stores the watermark unless a larger fence has been here; one UPDATE, so it can be lost by no one."""
        return (
            f"UPDATE {self.watermark_name} SET epoch = ?, version = ?, sequence_number = ?, fence = ?, "
            f"changes = ?, pending = ?, hold = ? OUTPUT inserted.feed "
            f"WHERE feed = {literal(self._spec.name)} AND fence <= ?"
        )


def widens(stored: str, wanted: str) -> bool:
    """Whether a column has to be, and can be, of another type so that every value of both fits exactly."""
    if stored.startswith("varchar(") and is_text(wanted):  # which holds the characters of one code page only
        return _units(stored) <= _units(wanted)
    if is_text(stored) and is_text(wanted):
        return _units(stored) < _units(wanted)
    if _DECIMAL.fullmatch(stored) and _DECIMAL.fullmatch(wanted):
        return is_widened(loaded_type(stored), loaded_type(wanted))
    return wanted in _WIDER.get(stored, ())


def stored_type(dtype: pl.DataType) -> str | None:
    """How values of a type are stored, texts of any length; None if they cannot be."""
    if isinstance(dtype, pl.Decimal):
        return f"decimal({dtype.precision},{dtype.scale})"
    declared = declared_type(dtype)
    return _TYPES[declared] if declared else None


def loaded_type(stored: str) -> pl.DataType:
    """In which type values go to a column of a stored type, one of those that there are here."""
    if found := _DECIMAL.fullmatch(stored):
        return pl.Decimal(int(found[1]), int(found[2]))
    return POLARS_TYPES["string" if is_text(stored) else _DECLARED[stored]]


def is_text(stored: str) -> bool:
    """Whether it holds any text up to a length."""
    return stored.startswith("nvarchar(")


def _units(stored: str) -> float:
    size = stored.partition("(")[2].rstrip(")")
    return float("inf") if size == "max" else int(size)


def _index_name(spec: FeedSpec, name: str) -> str:
    return (index_prefix(spec.name) + name)[
        :LONGEST_NAME
    ]  # cut off is only that of the event time: no other is so long


def _length(key: str) -> str:
    """The computed column with the length of a text of the key."""
    return f"_lpm_length_{key}"
