"""What a feed declares: one table, its contract, and the promises made about it."""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

from lpm_stream.feed.checks import Checks
from lpm_stream.feed.legacy import LegacyFormat

ColumnType = Literal["string", "int32", "int64", "float64", "boolean", "timestamp", "date", "decimal"]
Owner = Annotated[str, StringConstraints(pattern=r"^(team:[A-Za-z0-9_-]+|[^@\s]+@[^@\s]+)$")]
BASE_GROUP, EVERY_GROUP = "base", "all"
LONGEST_COMPANY_ID = 450  # characters: the longest text SQL Server takes into a key
MOST_DIGITS = 38  # of a decimal: what Delta, Arrow and SQL Server hold
MOST_INDEXED = 32  # columns of an index, in PostgreSQL and SQL Server
LONGEST_INDEXED = 1_700  # bytes: what SQL Server takes into an index that is not the key
LONGEST_SLO = 31_536_000.0  # seconds: a year
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
IndexName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,59}$")]


class Column(BaseModel):
    """One column of the contract."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    type: ColumnType = Field(description="timestamp: an instant, microseconds, UTC")
    precision: int | None = Field(
        None, ge=1, le=MOST_DIGITS, description="of a decimal: its digits, those behind the point included"
    )
    scale: int | None = Field(None, ge=0, le=MOST_DIGITS, description="of a decimal: its digits behind the point")
    nullable: bool = True
    max_length: int | None = Field(None, gt=0, description="longest string, in characters")
    on_breach: Literal["row", "value"] = Field(
        "row",
        description="what a value that breaks the contract sends to quarantine: the row, or a copy of the row, "
        "which itself is delivered with NULL in that place",
    )
    group: Name = Field(BASE_GROUP, description="only companies that are entitled to this group get the column")
    description: str = Field(min_length=1)

    @field_validator("group")
    @classmethod
    def _group_is_one(cls, group: str) -> str:
        if group == EVERY_GROUP:
            raise ValueError(f"{EVERY_GROUP!r} stands for every group; choose another name")
        return group

    @model_validator(mode="after")
    def _length_is_for_strings(self) -> Self:
        if self.max_length is not None and self.type != "string":
            raise ValueError(f"column {self.name}: max_length is for strings; remove it or make the type string")
        self._require_digits()
        if self.on_breach == "value" and not self.nullable:
            raise ValueError(f"column {self.name}: on_breach: value needs nullable: true")
        return self

    def _require_digits(self) -> None:
        given = [name for name in ("precision", "scale") if getattr(self, name) is not None]
        if self.type != "decimal":
            if given:
                raise ValueError(
                    f"column {self.name}: {_listed(given)} is for decimals; remove it or make the type decimal"
                )
        elif self.precision is None or self.scale is None:
            raise ValueError(
                f"column {self.name}: a decimal needs precision and scale, for instance 'precision: 18, scale: 4'"
            )
        elif self.scale > self.precision:
            raise ValueError(
                f"column {self.name}: scale {self.scale} is more than precision {self.precision}, which counts "
                f"the digits behind the point too; correct one"
            )

    @property
    def longest_bytes(self) -> int:
        """The most that a value takes in an index: of a text, two places of two bytes a character."""
        if self.type != "string":
            return 17  # of a decimal; all else takes less
        return 4 * self.max_length if self.max_length else 2**31

    @property
    def type_name(self) -> str:
        """The type with its digits: `decimal(18,4)`."""
        return f"decimal({self.precision},{self.scale})" if self.type == "decimal" else self.type


class FeedSpec(BaseModel):
    """One declared stream: source table, contract, company column, wire format, SLO and policy."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name = Field(description="the feed's name, and that of its table in every company database")
    description: str = Field(min_length=1)
    owners: tuple[Owner, ...] = Field((), description="e-mail addresses, or team:name")
    source_table: Name = Field(description="the Delta table, below the tables location of the settings")
    company_column: str = Field(description="the column that says which company a row belongs to")
    primary_key: tuple[str, ...] = Field(min_length=1)
    event_time_column: str = Field(description="when the recorded event happened; indexed")
    indexes: Mapping[IndexName, tuple[str, ...]] = Field(
        default_factory=dict,
        description="by what every company table is indexed besides key and event time: a name, and columns",
    )
    columns: tuple[Column, ...] = Field(min_length=1)
    wire_format: Literal["avro", "ndjson"] = "avro"
    slo_seconds: float = Field(
        60, gt=0, le=LONGEST_SLO, allow_inf_nan=False, description="commit to applied, at p99"
    )
    reporting_window_seconds: float = Field(
        60, gt=0, description="a company is reported to Dagster at most once in this time"
    )
    quarantine_rows: int = Field(
        10_000, gt=0, description="a company with more rows in quarantine is set aside instead"
    )
    quarantine_rows_per_minute: int = Field(
        1_000, gt=0, description="likewise with more new ones in a minute, or in one commit"
    )
    schema_policy: Literal["evolve", "freeze"] = Field(
        "freeze",
        description="a new nullable source column: 'evolve' takes it into the company tables, 'freeze' holds it "
        "back until the contract names it; one that became wider (int32 to int64): 'evolve' widens the company "
        "tables, 'freeze' stops publishing until the contract says so",
    )
    legacy: LegacyFormat | None = Field(None, description="the flat files that the stream is compared with")
    checks: Checks = Field(Checks(), description="how strict the checks of the company tables are")

    _withheld: tuple[str, ...] = PrivateAttr(())

    @field_validator("legacy")
    @classmethod
    def _legacy_fits_the_contract(cls, legacy: LegacyFormat | None, info: ValidationInfo) -> LegacyFormat | None:
        if legacy is None or not {"columns", "primary_key"} <= info.data.keys():
            return legacy
        types = {column.name: column.type for column in info.data["columns"]}
        used = legacy.used.values()
        if unknown := sorted(set(used) - set(types)):
            raise ValueError(
                f"columns: {_listed(unknown)} is not in the contract; correct it, or leave it out as null"
            )
        if lacking := [key for key in info.data["primary_key"] if key not in used]:
            raise ValueError(f"columns: no column of the file holds {_listed(lacking)} of the primary key; add it")
        if inexact := [key for key in info.data["primary_key"] if types[key] == "timestamp"]:
            raise ValueError(f"columns: {_listed(inexact)} is a timestamp; files are compared by exact keys only")
        return legacy

    @model_validator(mode="after")
    def _columns_fit_together(self) -> Self:
        names = [column.name for column in self.columns]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"columns: {_listed(twice)} declared twice; remove one")
        for field, wanted in self._referenced_columns():
            column = self._find(wanted)
            if column is None:
                raise ValueError(f"{field}: {wanted!r} is not among the columns; declare it or correct the name")
            if column.nullable:
                raise ValueError(f"{field}: column {wanted} must be declared 'nullable: false'")
        company = self.column(self.company_column)
        if company.type != "string" or not 0 < (company.max_length or 0) <= LONGEST_COMPANY_ID:
            raise ValueError(
                f"company_column: column {company.name} must be of type string with a max_length of at most "
                f"{LONGEST_COMPANY_ID}"
            )
        if self.column(self.event_time_column).type != "timestamp":
            raise ValueError(f"event_time_column: column {self.event_time_column} must be of type timestamp")
        if twice := sorted({key for key in self.primary_key if self.primary_key.count(key) > 1}):
            raise ValueError(f"primary_key: {_listed(twice)} named twice; remove one")
        if floats := [key for key in self.primary_key if self.column(key).type == "float64"]:
            raise ValueError(f"primary_key: {_listed(floats)} is a float; keys must compare exactly")
        if self.schema_policy == "evolve" and self.wire_format == "ndjson":
            raise ValueError("schema_policy: evolve needs wire_format: avro; NDJSON does not carry column types")
        return self

    @model_validator(mode="after")
    def _indexes_can_be_made(self) -> Self:
        if self.event_time_column in self.indexes:
            raise ValueError(f"indexes: {self.event_time_column} is that of the event time; choose another name")
        for name, columns in self.indexes.items():
            if not 0 < len(columns) <= MOST_INDEXED or len(set(columns)) < len(columns):
                raise ValueError(f"indexes: {name} names no column, one twice, or over {MOST_INDEXED}; correct it")
            if columns in [made for other, made in self.every_index.items() if other != name]:
                raise ValueError(f"indexes: {name} is there under another name too; remove one")
            found = {column: self._find(column) for column in columns}
            if unknown := [column for column in columns if found[column] is None]:
                raise ValueError(
                    f"indexes: {name} has {_listed(unknown)}, which is not among the columns; declare it"
                )
            size = sum(column.longest_bytes for column in found.values() if column)
            if size > LONGEST_INDEXED:
                raise ValueError(
                    f"indexes: {name} may take {size:,} bytes a row, SQL Server takes {LONGEST_INDEXED:,}; remove "
                    f"a column, or give its texts a smaller max_length"
                )
        return self

    @model_validator(mode="after")
    def _groups_leave_a_table(self) -> Self:
        """What every company needs is of group `base`, also since all else is nullable: see above."""
        if needed := [one.name for one in self.columns if one.group != BASE_GROUP and not one.nullable]:
            raise ValueError(
                f"columns: {_listed(needed)} is not in group {BASE_GROUP}: a company may be granted it later, so "
                f"declare it nullable, or put it into {BASE_GROUP}"
            )
        return self

    def _referenced_columns(self) -> Iterable[tuple[str, str]]:
        yield "company_column", self.company_column
        yield "event_time_column", self.event_time_column
        for key in self.primary_key:
            yield "primary_key", key

    def _find(self, name: str) -> Column | None:
        return next((column for column in self.columns if column.name == name), None)

    def column(self, name: str) -> Column:
        """The declared column of that name.

        Raises:
            KeyError: if there is none.
        """
        found = self._find(name)
        if found is None:
            raise KeyError(name)
        return found

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups that its columns are in, `base` first."""
        return tuple(dict.fromkeys((BASE_GROUP, *(column.group for column in self.columns))))

    @property
    def withheld(self) -> tuple[str, ...]:
        """The columns that are left out of this contract, see `for_groups`."""
        return self._withheld

    @property
    def every_index(self) -> dict[str, tuple[str, ...]]:
        """By what a company table is indexed besides its key: name to columns."""
        return {self.event_time_column: (self.event_time_column,), **self.indexes}

    def for_groups(self, groups: Collection[str]) -> Self:
        """The contract of a company that is entitled to these groups: `base` always, with `all` every one.

        Columns of other groups are neither among `columns` nor among those of the legacy files or an index;
        `withheld` names them. Columns that the source gains besides the contract count as `base`.
        """
        held = [one.name for one in self.columns if one.group not in {BASE_GROUP, *groups}]
        if not held or EVERY_GROUP in groups:
            return self
        legacy = self.legacy
        if legacy is not None:
            kept = {name: None if column in held else column for name, column in legacy.columns.items()}
            legacy = legacy.model_copy(update={"columns": kept})
        columns = tuple(one for one in self.columns if one.name not in held)
        indexes = {name: indexed for name, indexed in self.indexes.items() if not set(indexed) & set(held)}
        narrowed = self.model_copy(update={"columns": columns, "indexes": indexes, "legacy": legacy})
        narrowed._withheld = tuple(held)  # noqa: SLF001 - of this class
        return narrowed

    @property
    def column_names(self) -> list[str]:
        """The declared columns' names, in order."""
        return [column.name for column in self.columns]

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change when a column's name, type or nullability does."""
        text = "\n".join(f"{c.name} {c.type_name} {c.nullable}" for c in self.columns)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
