"""Translates the T-SQL of company databases into PostgreSQL's SQL."""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache

import sqlglot
from sqlglot import exp

from lpm_stream.postgresql import quoted

_TYPES = {
    exp.DType.NVARCHAR: "varchar",
    exp.DType.FLOAT: "double precision",
    exp.DType.BIT: "boolean",
    exp.DType.DATETIME2: "timestamp(6)",
}

# What T-SQL has and PostgreSQL lacks. INFORMATION_SCHEMA names types as SQL Server does.
PRELUDE = r"""
CREATE SCHEMA IF NOT EXISTS tsql;
CREATE FUNCTION tsql.datalength(text) RETURNS integer IMMUTABLE LANGUAGE sql AS $$
    SELECT 2 * (length($1) + length(regexp_replace($1, '[^\U00010000-\U0010FFFF]', '', 'g'))) $$;
CREATE FUNCTION tsql.object_id(text) RETURNS text LANGUAGE sql AS $$ SELECT trim(both '[]' from $1) $$;
CREATE FUNCTION tsql.columnproperty(text, text, text) RETURNS integer LANGUAGE sql AS $$
    SELECT count(*)::integer FROM information_schema.columns WHERE table_name = $1 AND column_name = $2
    AND (($3 = 'IsIdentity' AND is_identity = 'YES') OR ($3 = 'IsComputed' AND is_generated = 'ALWAYS')) $$;
CREATE VIEW tsql.columns AS SELECT table_schema::text, table_name::text, column_name::text, column_default,
    is_nullable::text, datetime_precision::integer, CASE data_type WHEN 'character varying' THEN 'nvarchar'
    WHEN 'text' THEN 'nvarchar' WHEN 'integer' THEN 'int' WHEN 'double precision' THEN 'float' WHEN 'boolean'
    THEN 'bit' WHEN 'numeric' THEN 'decimal' WHEN 'timestamp without time zone' THEN 'datetime2'
    ELSE data_type END AS data_type,
    coalesce(character_maximum_length, -1)::integer AS character_maximum_length,
    numeric_precision::integer, numeric_scale::integer FROM information_schema.columns;
CREATE COLLATION "Latin1_General_100_BIN2" FROM "C";
"""


# Statements of the server's own, by a part of them.
_KNOWN = {
    "DECLARE @got int": "SELECT 0 FROM pg_advisory_xact_lock(1)",
    "@@version": "SELECT 'Microsoft SQL Server - 16.0.1000.6'",
    "SERVERPROPERTY('ProductVersion')": "SELECT '16.0.1000.6'",
    "SET TRANSACTION ISOLATION LEVEL SNAPSHOT": "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
    "sys.databases": "SELECT 1 FROM pg_database WHERE datname = %s",
}

# Questions about a table, by what they look like.
_ASKED = {
    r"sys.database_permissions .* OBJECT_ID\(N'\[(\w+)\]'\)": (
        "SELECT CASE is_grantable WHEN 'YES' THEN 'W' ELSE 'G' END, privilege_type::text, grantee::text "
        "FROM information_schema.role_table_grants WHERE table_name = '{table}' AND grantee <> grantor"
    ),
    # A primary key is an index here, over texts without the blanks at their end; see below.
    r"OBJECT_ID\(N'\[(\w+)\]'\) AND i.is_primary_key = 1": (
        "SELECT attname::text FROM pg_index JOIN pg_attribute ON attrelid = indrelid "
        "WHERE indisunique AND attnum > 0 AND indrelid = to_regclass('\"{table}\"') "
        "AND NOT starts_with(attname, '_lpm_length_') AND (attnum = ANY (indkey) "
        "OR pg_get_expr(indexprs, indrelid) ~ ('rtrim[(]+' || quote_ident(attname) || '[)]'))"
    ),
    r"ELSE i.name END, c.name FROM sys.indexes .* i.object_id = OBJECT_ID\(N'\[(\w+)\]'\)": (
        "SELECT replace(i.relname, '{table}.', ''), attname::text FROM pg_index "
        "JOIN pg_class AS i ON i.oid = indexrelid CROSS JOIN unnest(indkey) WITH ORDINALITY AS k(n, place) "
        "JOIN pg_attribute ON attrelid = indrelid AND attnum = k.n "
        "WHERE indrelid = to_regclass('\"{table}\"') ORDER BY 1, place"
    ),
    r"sys.triggers WHERE parent_id = OBJECT_ID\(N'\[(\w+)\]'\)": (
        "SELECT 'trigger ' || tgname FROM pg_trigger WHERE tgrelid = to_regclass('\"{table}\"')"
    ),
}


_ALTERED = r"ALTER TABLE \[(\w+)\] ALTER COLUMN \[(.+)\] (.*?)(?: COLLATE \w+)?( NOT)? NULL"


@lru_cache(maxsize=10_000)
def translated(statement: str) -> tuple[str, ...]:
    """The statements of PostgreSQL that do what one of T-SQL does."""
    for part, known in _KNOWN.items():
        if part in statement:
            return (known,)
    for asked, answer in _ASKED.items():
        if found := re.search(asked, statement):
            return (answer.format(table=found[1]),)
    if own := tuple(_of_server(statement)):
        return own
    return tuple(
        text for parsed in sqlglot.parse(statement, dialect="tsql") if parsed for text in _statements(parsed)
    )


def _of_server(statement: str) -> Iterable[str]:
    """What is to be done to tables and indexes in SQL Server's own words; nothing if it is said in others."""
    if statement.startswith("EXEC sp_rename"):
        yield from _renamed(statement)
    elif found := re.fullmatch(r"DROP INDEX \[(.+)\] ON \[(\w+)\]", statement):
        yield f"DROP INDEX {quoted(f'{found[2]}.{found[1]}')}"
    elif found := re.fullmatch(r"ALTER TABLE \[(\w+)\] DROP COLUMN \[(\w+)\]", statement):
        yield _require_no_index(found[1], found[2])
        yield f'ALTER TABLE "{found[1]}" DROP COLUMN "{found[2]}"'
    elif found := re.fullmatch(_ALTERED, statement):
        yield _require_no_index(found[1], found[2])
        column = f'ALTER TABLE "{found[1]}" ALTER COLUMN "{found[2]}"'
        yield f"{column} TYPE {_sql(exp.DataType.build(found[3], dialect='tsql'))}"
        yield f"{column} {'SET' if found[4] else 'DROP'} NOT NULL"


def _require_no_index(table: str, column: str) -> str:
    """SQL Server does not let a column be altered or dropped that an index holds; PostgreSQL sees to it itself."""
    return (
        f"DO $$ BEGIN IF EXISTS (SELECT FROM pg_index JOIN pg_attribute ON attrelid = indrelid "
        f"AND attnum = ANY (indkey) WHERE indrelid = to_regclass('\"{table}\"') AND NOT indisunique "
        f"AND attname = '{column}') THEN RAISE EXCEPTION 'The index is dependent on column %.', '{column}'; "
        f"END IF; END $$"
    )


def _renamed(statement: str) -> Iterable[str]:
    table, column, new = re.findall(r"\[(\w+)\](?:\.\[(\w+)\])?', N'(\w+)'", statement)[0]
    if column:
        yield f'ALTER TABLE "{table}" RENAME COLUMN "{column}" TO "{new}"'
        return
    yield f'ALTER TABLE "{table}" RENAME TO "{new}"'
    yield (
        f"DO $$ DECLARE i text; BEGIN FOR i IN SELECT indexname FROM pg_indexes WHERE tablename = '{new}' "
        f"AND starts_with(indexname, '{table}.') LOOP EXECUTE format('ALTER INDEX %I RENAME TO %I', i, "
        f"replace(i, '{table}.', '{new}.')); END LOOP; END $$"
    )


def _statements(parsed: exp.Expr) -> Iterable[str]:
    keys: list[exp.PrimaryKey] = list(parsed.find_all(exp.PrimaryKey)) if isinstance(parsed, exp.Create) else []
    texts = {one.name for one in parsed.find_all(exp.ColumnDef) if _is_text(one.args.get("kind"))}
    for key in keys:
        key.pop()
    yield _sql(parsed).replace("CREATE CLUSTERED INDEX", "CREATE INDEX")
    for key in keys:  # unique but for blanks at the end, as SQL Server's are
        names = [one.name for one in key.find_all(exp.Identifier)]
        listed = ", ".join(f'rtrim("{name}")' if name in texts else f'"{name}"' for name in names)
        yield f"CREATE UNIQUE INDEX ON {_sql(parsed.this.this)} ({listed})"


def _sql(parsed: exp.Expr) -> str:
    return (
        parsed.copy()
        .transform(_blanks_ignored)
        .transform(_changed)
        .sql("postgres", unsupported_level=sqlglot.ErrorLevel.IGNORE)
    )


def _changed(node: exp.Expr) -> exp.Expr:
    change = _CHANGES.get(type(node))
    return change(node) if change else node


def _type(node: exp.Expr) -> exp.Expr:
    if node.this not in _TYPES:
        return node
    kind = _TYPES[node.this]
    if kind == "varchar":
        size = node.expressions[0].name.upper()
        kind = "text" if size == "MAX" else f"varchar({size})"
    return exp.DataType.build(kind, dialect="postgres", udt=True)


def _table(node: exp.Expr) -> exp.Expr:
    if isinstance(node.this, exp.OpenJSON):
        return _records(node.this)
    if (node.text("db").upper(), node.name.upper()) == ("INFORMATION_SCHEMA", "COLUMNS"):
        return exp.to_table("tsql.columns")
    return node


def _column(node: exp.Expr) -> exp.Expr:
    return exp.column(node.this) if node.text("table").lower() == "inserted" else node


def _collated(node: exp.Expr) -> exp.Expr:
    node.set(
        "expression" if isinstance(node, exp.Collate) else "this",
        exp.to_identifier("Latin1_General_100_BIN2", quoted=True),
    )
    return node


def _defined(node: exp.Expr) -> exp.Expr:
    """A computed column has no type of its own; those here are lengths."""
    if not node.args.get("kind"):
        node.set("kind", exp.DataType.build("int"))
    return node


def _index(node: exp.Expr) -> exp.Expr:
    """By a name with its table's: it is the table's own there, and the schema's here."""
    node.set("this", exp.to_identifier(f"{node.args['table'].name}.{node.name}", quoted=True))
    return node


def _dated(node: exp.Expr) -> exp.Expr:
    """CONVERT with a style: an instant or a day as text."""
    form = {"121": "YYYY-MM-DD HH24:MI:SS.US", "23": "YYYY-MM-DD"}[node.args["style"].name]
    return exp.Anonymous(this="to_char", expressions=[node.expression, exp.Literal.string(form)])


_CHANGES: Mapping[type[exp.Expr], Callable[[exp.Expr], exp.Expr]] = {
    exp.DataType: _type,
    exp.Table: _table,
    exp.Column: _column,
    exp.Collate: _collated,
    exp.CollateColumnConstraint: _collated,
    exp.ColumnDef: _defined,
    exp.Index: _index,
    exp.National: lambda node: exp.Literal.string(node.name),
    exp.Convert: _dated,
}


def _blanks_ignored(node: exp.Expr) -> exp.Expr:
    """Comparisons of texts, where the node shows that they are texts, as SQL Server makes them."""
    if isinstance(node, exp.EQ) and any(
        isinstance(side, exp.Collate | exp.National) for side in node.args.values()
    ):
        return exp.EQ(this=_trimmed(node.this), expression=_trimmed(node.expression))
    return node


def _trimmed(node: exp.Expr) -> exp.Expr:
    return exp.Anonymous(this="rtrim", expressions=[node])


def _is_text(kind: exp.Expr | None) -> bool:
    return isinstance(kind, exp.DataType) and kind.this == exp.DType.NVARCHAR


def _records(read: exp.OpenJSON) -> exp.Expr:
    """OPENJSON(?) WITH (...): the columns out of the objects of a JSON array."""
    typed, named = [], []
    for column in read.expressions:
        short = column.args["path"].name.removeprefix("$.")
        typed.append(f"{short} {_sql(column.args['kind'])}")
        named.append(f"{short} AS {quoted(column.name)}")
    text = f"(SELECT {', '.join(named)} FROM json_to_recordset($$?$$::json) AS r({', '.join(typed)})) AS records"
    return exp.Var(this=text.replace("$$?$$", "%s"))
