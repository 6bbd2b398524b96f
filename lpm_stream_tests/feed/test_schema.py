import polars as pl
import pytest

from lpm_stream.errors import SchemaError
from lpm_stream.feed.schema import POLARS_TYPES, contract_schema, declared_type, fit, type_name, typed
from lpm_stream.feed.spec import Column
from lpm_stream_tests.example import SPEC

CONTRACT = contract_schema(SPEC)
PRICE = Column(name="price", type="decimal", precision=10, scale=2, description="a decimal")
PRICED = SPEC.model_copy(update={"columns": (*SPEC.columns, PRICE)})
EVOLVE = SPEC.model_copy(update={"schema_policy": "evolve"})


def test_the_contract_itself_fits():
    found = fit(SPEC, CONTRACT)
    assert found.schema == CONTRACT
    assert list(found.schema) == SPEC.column_names
    assert found.held == ()


def test_the_order_of_the_sources_columns_does_not_matter():
    assert list(fit(SPEC, dict(reversed(CONTRACT.items()))).schema) == SPEC.column_names


@pytest.mark.parametrize(
    ("column", "found"),
    [
        ("amount", pl.Int32()),
        ("amount", pl.Int8()),
        ("count", pl.Int16()),
        ("weight", pl.Float32()),
        ("weight", pl.Int32()),
        ("ordered_at", pl.Datetime("us")),
        ("ordered_at", pl.Datetime("ms", "UTC")),
    ],
    ids=str,
)
def test_a_narrower_source_fits_in_the_contracts_type(column, found):
    assert fit(SPEC, CONTRACT | {column: found}).schema == CONTRACT


@pytest.mark.parametrize(
    ("column", "found", "said"),
    [
        ("amount", pl.String(), "column amount is String, declared int64"),
        ("weight", pl.Int64(), "column weight is Int64, declared float64"),
        ("ordered_at", pl.Date(), "column ordered_at is Date, declared timestamp"),
        ("ordered_at", pl.Datetime("ns", "UTC"), "declared timestamp"),
        ("ordered_at", pl.Datetime("us", "Europe/Zurich"), "declared timestamp"),
        ("note", pl.Binary(), "column note is Binary, declared string"),
        ("amount", pl.Decimal(10, 2), "declared int64"),
    ],
    ids=str,
)
@pytest.mark.parametrize("spec", [SPEC, EVOLVE], ids=["freeze", "evolve"])
def test_an_incompatible_type_names_column_types_and_what_to_do(spec, column, found, said):
    with pytest.raises(SchemaError, match=said) as caught:
        fit(spec, CONTRACT | {column: found})
    assert "Publishing stops before this version" in str(caught.value)
    assert "correct lpm_stream/defs/orders/defs.yaml, and it goes on from there" in str(caught.value)
    assert "or correct the table, then begin anew with lpm-stream resync" in str(caught.value)


def test_all_problems_are_named_at_once():
    source = {name: dtype for name, dtype in CONTRACT.items() if name != "note"} | {"amount": pl.String()}
    with pytest.raises(SchemaError, match=r"column amount is String.*; column note \(string\) is missing"):
        fit(SPEC, source)


def test_further_columns_are_held_or_taken_in():
    further = CONTRACT | {"extra": pl.Int64(), "nested": pl.Struct({"a": pl.Int64()})}
    assert fit(SPEC, further).held == ("extra", "nested")
    assert fit(SPEC, further).schema == CONTRACT
    taken = fit(EVOLVE, further)
    assert taken.schema == CONTRACT | {"extra": pl.Int64()}
    assert taken.held == ("nested",)
    assert taken.taken == {"extra": "int64"}
    assert fit(SPEC, further).taken == {}


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({}, r"column extra \(taken in as int32\) is missing"),
        ({"extra": pl.String()}, "column extra is String, taken in as int32"),
        ({"extra": pl.Struct({"a": pl.Int64()})}, "column extra is Struct.*, taken in as int32"),
    ],
    ids=str,
)
def test_a_column_that_was_taken_in_has_to_stay(source, said):
    """The company tables would keep its last values, and nobody would see it."""
    with pytest.raises(SchemaError, match=f"{said}.*once the table is as it is to be, .* lpm-stream resync"):
        fit(EVOLVE, CONTRACT | source, {"extra": "int32"})
    assert fit(SPEC, CONTRACT | source, {"extra": "int32"}).schema == CONTRACT


def test_a_column_that_was_taken_in_may_become_wider_and_narrower():
    assert fit(EVOLVE, CONTRACT | {"extra": pl.Int64()}, {"extra": "int32"}).taken == {"extra": "int64"}
    narrower = fit(EVOLVE, CONTRACT | {"extra": pl.Int32()}, {"extra": "int64"})
    assert narrower.schema == CONTRACT | {"extra": pl.Int64()}
    assert narrower.taken == {"extra": "int64"}


def test_a_decimal_that_was_taken_in_keeps_its_digits():
    taken = fit(EVOLVE, CONTRACT | {"extra": pl.Decimal(10, 3)}).taken
    assert taken == {"extra": "decimal(10,3)"}
    assert fit(EVOLVE, CONTRACT | {"extra": pl.Decimal(12, 3)}, taken).taken == {"extra": "decimal(12,3)"}
    assert fit(EVOLVE, CONTRACT | {"extra": pl.Decimal(8, 2)}, taken).taken == taken
    with pytest.raises(SchemaError, match=r"column extra is Decimal.*, taken in as decimal\(10,3\)"):
        fit(EVOLVE, CONTRACT | {"extra": pl.Decimal(12, 4)}, taken)


def test_a_column_that_was_taken_in_and_is_declared_now_is_as_declared():
    assert fit(EVOLVE, CONTRACT, {"amount": "string"}).schema == CONTRACT


def test_every_declared_type_has_a_word():
    assert {declared_type(dtype) for dtype in POLARS_TYPES.values()} == set(POLARS_TYPES)
    assert declared_type(pl.Decimal(10, 2)) == "decimal"
    assert all(typed(type_name(dtype)) == dtype for dtype in (*POLARS_TYPES.values(), pl.Decimal(38, 0)))
    assert declared_type(pl.Binary()) is None


def test_a_column_that_became_wider_is_taken_in_or_stops_as_the_policy_says():
    wider = CONTRACT | {"count": pl.Int64()}
    assert fit(EVOLVE, wider).schema == wider
    with pytest.raises(SchemaError, match="column count is Int64, declared int32"):
        fit(SPEC, wider)


@pytest.mark.parametrize("found", [(10, 2), (9, 2), (9, 1), (8, 0), (1, 1)])
@pytest.mark.parametrize("policy", ["freeze", "evolve"])
def test_a_decimal_of_the_source_with_no_more_digits_on_either_side_fits(policy, found):
    spec = PRICED.model_copy(update={"schema_policy": policy})
    assert fit(spec, CONTRACT | {"price": pl.Decimal(*found)}).schema["price"] == pl.Decimal(10, 2)


def test_a_decimal_that_gains_digits_before_the_point_is_taken_in_or_stops():
    source = CONTRACT | {"price": pl.Decimal(12, 2)}
    assert fit(PRICED.model_copy(update={"schema_policy": "evolve"}), source).schema["price"] == pl.Decimal(12, 2)
    with pytest.raises(SchemaError, match=r"column price is Decimal\(.*12.*2\), declared decimal\(10,2\)"):
        fit(PRICED, source)


@pytest.mark.parametrize(
    "found", [pl.Decimal(10, 3), pl.Decimal(12, 3), pl.Decimal(10, 1), pl.Float64(), pl.Int64()]
)
@pytest.mark.parametrize("policy", ["freeze", "evolve"])
def test_what_a_decimal_does_not_hold_exactly_stops(policy, found):
    spec = PRICED.model_copy(update={"schema_policy": policy})
    with pytest.raises(SchemaError, match=r"column price is .*, declared decimal\(10,2\)"):
        fit(spec, CONTRACT | {"price": found})
    with pytest.raises(SchemaError, match=r"column price \(decimal\(10,2\)\) is missing"):
        fit(spec, CONTRACT)
