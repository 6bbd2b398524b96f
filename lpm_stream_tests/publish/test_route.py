import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from lpm_stream.feed.schema import CHANGE_TYPE
from lpm_stream.publish.route import route, travelling
from lpm_stream_tests.example import SPEC, orders

Change = tuple[str, str, str]  # change type, key, company
TWO_KEYS = SPEC.model_copy(update={"primary_key": ("id", "ordered_at")})


def frame(*changes: Change) -> pl.DataFrame:
    rows = orders([key for _, key, _ in changes], [company for *_, company in changes])
    return rows.with_columns(pl.Series(CHANGE_TYPE, [kind for kind, *_ in changes], pl.String))


def travel(*changes: Change) -> list[Change]:
    rows = travelling(SPEC, frame(*changes)).select(CHANGE_TYPE, "id", "customer").rows()
    return sorted((str(kind), str(key), str(company)) for kind, key, company in rows)


def test_inserts_postimages_and_deletes_travel_preimages_do_not():
    assert travel(
        ("insert", "1", "A"),
        ("update_preimage", "2", "A"),
        ("update_postimage", "2", "A"),
        ("delete", "3", "A"),
    ) == [("delete", "3", "A"), ("insert", "1", "A"), ("update_postimage", "2", "A")]


def test_a_row_that_moves_is_deleted_where_it_was():
    assert travel(("update_preimage", "1", "A"), ("update_postimage", "1", "B")) == [
        ("delete", "1", "A"),
        ("update_postimage", "1", "B"),
    ]


def test_a_row_that_changes_its_key_is_deleted_under_the_old_one():
    assert travel(("update_preimage", "1", "A"), ("update_postimage", "2", "A")) == [
        ("delete", "1", "A"),
        ("update_postimage", "2", "A"),
    ]


def test_rows_that_swap_their_keys_stay():
    swapped = [
        ("update_preimage", "1", "A"),
        ("update_postimage", "2", "A"),
        ("update_preimage", "2", "A"),
        ("update_postimage", "1", "A"),
    ]
    assert travel(*swapped) == [("update_postimage", "1", "A"), ("update_postimage", "2", "A")]


def test_a_part_of_the_key_is_not_the_key():
    changes = frame(("update_preimage", "1", "A"), ("update_postimage", "1", "A"))
    later = changes["ordered_at"][0].replace(year=2027)
    moved = changes.with_columns(
        pl.when(pl.col(CHANGE_TYPE) == "update_postimage").then(later).otherwise("ordered_at").alias("ordered_at")
    )
    assert sorted(travelling(TWO_KEYS, moved)[CHANGE_TYPE]) == ["delete", "update_postimage"]


def test_a_preimage_without_its_postimage_in_the_batch_is_a_delete_that_loses_to_it():
    assert travel(("update_preimage", "1", "A")) == [("delete", "1", "A")]


def test_a_null_company_is_an_identity_as_any():
    changes = frame(("update_preimage", "1", "A"), ("update_postimage", "1", "A"))
    nobodys = changes.with_columns(customer=pl.lit(None, pl.String))
    assert travelling(SPEC, nobodys)[CHANGE_TYPE].to_list() == ["update_postimage"]


KEYS, COMPANIES = st.sampled_from("123"), st.sampled_from("ABC")


@given(st.dictionaries(KEYS, COMPANIES), st.dictionaries(KEYS, COMPANIES), st.integers(1, 6))
def test_what_travels_makes_each_company_what_the_table_is(before, after, batch_rows):
    """Whatever one commit did to the table, and however its feed is cut into batches."""
    changes: list[Change] = []
    for key in sorted(before.keys() | after.keys()):
        if key in before and key in after:
            changes += [("update_preimage", key, before[key]), ("update_postimage", key, after[key])]
        elif key in before:
            changes.append(("delete", key, before[key]))
        else:
            changes.append(("insert", key, after[key]))
    batches = [changes[start : start + batch_rows] for start in range(0, len(changes), batch_rows)]
    travelled = [change for batch in batches for change in travel(*batch)]
    held = {(company, key) for key, company in before.items()}
    held -= {(company, key) for kind, key, company in travelled if kind == "delete"}
    held |= {(company, key) for kind, key, company in travelled if kind != "delete"}
    assert held == {(company, key) for key, company in after.items()}


def test_changes_are_told_apart_by_company():
    routed = route(SPEC, frame(("insert", "1", "A"), ("insert", "2", "b"), ("delete", "3", "A")), {"A", "B"})
    assert {company: rows["id"].to_list() for company, rows in routed.by_company.items()} == {"A": ["1", "3"]}
    assert routed.unknown == {"b": 1}


def test_odd_ids_are_only_ids():
    odd = ["it's", "..", "%s", "\U0001f691", "nan", "None", " A", "A"]
    routed = route(SPEC, frame(*[("insert", str(index), company) for index, company in enumerate(odd)]), odd)
    assert list(routed.by_company) == odd
    assert routed.unknown == {}
