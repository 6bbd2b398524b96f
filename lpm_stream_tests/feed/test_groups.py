"""Groups of columns, and the contracts of companies that get some of them."""

from typing import Any

import pytest
from pydantic import ValidationError

from lpm_stream.feed.load import load_feeds
from lpm_stream.feed.spec import FeedSpec
from lpm_stream_tests.example import SPEC


def with_groups(**groups: str) -> FeedSpec:
    columns = [
        column.model_dump() | ({"group": groups[column.name]} if column.name in groups else {})
        for column in SPEC.columns
    ]
    return FeedSpec.model_validate(SPEC.model_dump() | {"columns": columns})


def test_a_contract_is_narrowed_to_groups():
    spec = with_groups(note="notes", weight="scales")
    assert spec.groups == ("base", "notes", "scales")
    narrow = spec.for_groups(["notes"])
    assert narrow.column_names == [name for name in spec.column_names if name != "weight"]
    assert narrow.withheld == ("weight",)
    assert spec.for_groups(["base"]).withheld == ("note", "weight")
    assert spec.withheld == ()


def test_indexes_on_what_a_company_does_not_get_are_left_out():
    spec = with_groups(weight="scales").model_copy(
        update={"indexes": {"heavy": ("ordered_at", "weight"), "dear": ("amount",)}}
    )
    narrow = spec.for_groups(["base"])
    assert narrow.every_index == {"ordered_at": ("ordered_at",), "dear": ("amount",)}


@pytest.mark.parametrize("groups", [["all"], ["base", "notes"], ["notes", "all"]])
def test_who_may_have_everything_gets_the_contract_itself(groups: list[str]):
    spec = with_groups(note="notes")
    assert spec.for_groups(groups) is spec


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"id": "notes"}, "id is not in group base"),
        ({"note": "all"}, "'all' stands for every group"),
        ({"note": "No Name"}, "pattern"),
    ],
)
def test_groups_that_cannot_be(groups: dict[str, Any], message: str):
    with pytest.raises(ValidationError, match=message):
        with_groups(**groups)


def test_the_legacy_files_of_a_company_are_compared_without_what_it_does_not_get():
    spec = load_feeds()["tdr"]
    assert spec.legacy is not None
    columns = [
        column.model_copy(update={"group": "place"}) if column.name in {"latitude", "longitude"} else column
        for column in spec.columns
    ]
    narrow = spec.model_copy(update={"columns": tuple(columns)}).for_groups(["base"])
    assert narrow.legacy is not None
    assert set(narrow.withheld) == {"latitude", "longitude", "sipreq"}
    assert set(spec.legacy.used) - set(narrow.legacy.used) == {"LATITUDE", "LONGITUDE"}
    assert narrow.legacy.columns.keys() == spec.legacy.columns.keys()
