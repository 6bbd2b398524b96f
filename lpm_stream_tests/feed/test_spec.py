from typing import Any

import pytest
from pydantic import ValidationError

from lpm_stream.feed.spec import FeedSpec
from lpm_stream_tests.example import SPEC

GOOD = SPEC.model_dump()


def spec(**changed: Any) -> FeedSpec:
    return FeedSpec.model_validate(GOOD | changed)


def with_column(which: str, **changed: Any) -> tuple[dict[str, Any], ...]:
    return tuple(column.model_dump() | (changed if column.name == which else {}) for column in SPEC.columns)


def further(**column: Any) -> tuple[dict[str, Any], ...]:
    return (*(one.model_dump() for one in SPEC.columns), {"type": "string", "description": "further"} | column)


def test_a_spec_survives_being_written_down():
    assert spec() == SPEC
    assert FeedSpec.model_validate_json(SPEC.model_dump_json()) == SPEC


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"name": "Orders"}, "should match pattern"),
        ({"name": "../orders"}, "should match pattern"),
        ({"name": 'o"r'}, "should match pattern"),
        ({"name": "o" * 64}, "should match pattern"),
        ({"name": ""}, "should match pattern"),
        ({"source_table": "a/b"}, "should match pattern"),
        ({"description": ""}, "at least 1 character"),
        ({"primary_key": ()}, "at least 1 item"),
        ({"primary_key": ("nothing",)}, "primary_key: 'nothing' is not among the columns"),
        ({"primary_key": ("amount",)}, "primary_key: column amount must be declared 'nullable: false'"),
        ({"primary_key": ("id", "id")}, "primary_key: id named twice"),
        ({"company_column": "nobody"}, "company_column: 'nobody' is not among the columns"),
        ({"company_column": "note"}, "company_column: column note must be declared 'nullable: false'"),
        ({"company_column": "ordered_at"}, "company_column: column ordered_at must be of type string"),
        ({"event_time_column": "never"}, "event_time_column: 'never' is not among the columns"),
        ({"event_time_column": "id"}, "event_time_column: column id must be of type timestamp"),
        ({"columns": ()}, "at least 1 item"),
        ({"columns": with_column("customer", max_length=None)}, "max_length of at most 450"),
        ({"columns": with_column("customer", max_length=451)}, "max_length of at most 450"),
        ({"columns": with_column("amount", max_length=3)}, "max_length is for strings"),
        ({"columns": with_column("note", max_length=0)}, "greater than 0"),
        ({"columns": with_column("note", type="text")}, "Input should be 'string', 'int32'"),
        ({"columns": with_column("amount", scale=2)}, "column amount: scale is for decimals; remove it or make"),
        (
            {"columns": with_column("amount", precision=9, scale=2)},
            "column amount: precision, scale is for decimals",
        ),
        ({"columns": with_column("amount", type="decimal")}, "column amount: a decimal needs precision and scale"),
        ({"columns": with_column("amount", type="decimal", scale=2)}, "a decimal needs precision and scale"),
        ({"columns": with_column("amount", type="decimal", precision=9)}, "a decimal needs precision and scale"),
        (
            {"columns": with_column("amount", type="decimal", precision=3, scale=4)},
            "scale 4 is more than precision 3",
        ),
        ({"columns": with_column("amount", type="decimal", precision=39, scale=4)}, "less than or equal to 38"),
        ({"columns": with_column("amount", type="decimal", precision=0, scale=0)}, "greater than or equal to 1"),
        ({"columns": with_column("amount", type="decimal", precision=9, scale=-1)}, "greater than or equal to 0"),
        ({"columns": with_column("note", description="")}, "at least 1 character"),
        ({"columns": with_column("note", colour="red")}, "Extra inputs"),
        ({"columns": with_column("id", name="Id")}, "should match pattern"),
        ({"columns": with_column("id", name="_commit_version")}, "should match pattern"),
        ({"columns": further(name="note")}, "note declared twice"),
        ({"wire_format": "csv"}, "Input should be 'avro' or 'ndjson'"),
        ({"slo_seconds": 0}, "greater than 0"),
        ({"slo_seconds": 1e14}, "less than or equal to 31536000"),
        ({"slo_seconds": float("inf")}, "finite number"),
        ({"reporting_window_seconds": -1}, "greater than 0"),
        ({"schema_policy": "ignore"}, "Input should be 'evolve' or 'freeze'"),
        ({"indexes": {"By paid": ("paid",)}}, "should match pattern"),
        ({"indexes": {"i" * 61: ("paid",)}}, "should match pattern"),
        ({"indexes": {"ordered_at": ("paid",)}}, "indexes: ordered_at is that of the event time"),
        ({"indexes": {"nothing": ()}}, "indexes: nothing names no column"),
        ({"indexes": {"twice": ("paid", "paid")}}, "indexes: twice names no column, one twice, or over 32"),
        ({"indexes": {"new": ("ordered_at",)}}, "indexes: new is there under another name"),
        ({"indexes": {"one": ("paid",), "two": ("paid",)}}, "indexes: one is there under another name"),
        (
            {"indexes": {"unknown": ("paid", "colour")}},
            "indexes: unknown has colour, which is not among the columns",
        ),
        ({"indexes": {"long": ("note",)}}, "indexes: long may take 4,000 bytes a row, SQL Server takes 1,700"),
        ({"indexes": {"any": ("id",)}, "columns": with_column("id", max_length=None)}, "indexes: any may take"),
        ({"colour": "red"}, "Extra inputs"),
    ],
    ids=str,
)
def test_what_does_not_fit_together_is_refused(changed, said):
    with pytest.raises(ValidationError, match=said):
        spec(**changed)


def test_a_float_is_no_key():
    columns = with_column("weight", nullable=False)
    with pytest.raises(ValidationError, match="weight is a float"):
        spec(columns=columns, primary_key=("id", "weight"))


def test_columns_are_found_by_name():
    assert SPEC.column("note").max_length == 1_000
    with pytest.raises(KeyError):
        SPEC.column("nothing")


def test_the_fingerprint_follows_names_types_and_nullability():
    assert SPEC.fingerprint == spec().fingerprint
    assert spec(columns=with_column("note", description="other")).fingerprint == SPEC.fingerprint
    changed = [
        spec(columns=with_column("note", name="text")),
        spec(columns=with_column("amount", type="int32")),
        spec(columns=with_column("note", nullable=False)),
        spec(columns=further(name="further")),
        spec(columns=tuple(reversed(with_column("id")))),
    ]
    assert len({SPEC.fingerprint, *(one.fingerprint for one in changed)}) == 6


def test_the_digits_of_a_decimal_are_part_of_the_fingerprint():
    prints = {
        spec(columns=with_column("amount", type="decimal", precision=precision, scale=scale)).fingerprint
        for precision, scale in [(10, 2), (12, 2), (10, 3)]
    }
    assert len(prints) == 3
