"""The audit against a naive reading of the definitions, on random tables and databases."""

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lpm_stream.audit import compare
from lpm_stream.audit.report import AuditReport
from lpm_stream_tests.audit.world import Row, World, as_stored, faults, of, row

COMPANIES = ["A", "b'\"", "😀/.."]
ANYBODY = st.sampled_from([*COMPANIES, "nobody", None])
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "s": st.sampled_from([None, "", "a", "é", "long " * 40, "long " * 41]),
    "weight": st.sampled_from([None, 0.0, -0.0, 1.5, float("inf")]),
    "paid": st.sampled_from([None, True, False]),
    "rowid": st.sampled_from([None, 0, 1, 2**63 - 1]),
}
TABLE_ROWS = st.builds(row, st.integers(0, 8), ANYBODY, **VALUES)
ODD = st.sampled_from([b"x", "text", 2.5])


@st.composite
def tables(draw: st.DrawFn) -> list[Row]:
    """A Delta table, in most cases with each key once."""
    table = draw(st.lists(TABLE_ROWS, max_size=14))
    if draw(st.integers(0, 3)) == 0:
        return table
    return list({(values["id"], values["group"]): values for values in table}.values())


@st.composite
def databases(draw: st.DrawFn, table: list[Row]) -> dict[str, list[Row]]:
    """What is delivered, with accidents."""
    stored = {company: [as_stored(r) for r in table if r["company"] == company] for company in COMPANIES}
    for _ in range(draw(st.integers(0, 4))):
        at = stored[draw(st.sampled_from(COMPANIES))]
        accident = draw(st.sampled_from(["lose", "copy", "stray", "add", "change", "rename", "spoil"]))
        if accident == "add":
            at.append(as_stored(draw(TABLE_ROWS)))
        elif at:
            place = draw(st.integers(0, len(at) - 1))
            _happen(draw, accident, at, place, stored[draw(st.sampled_from(COMPANIES))])
    return stored


def _happen(draw: st.DrawFn, accident: str, at: list[Row], place: int, elsewhere: list[Row]) -> None:
    if accident == "lose":
        del at[place]
    elif accident == "copy":
        at.append(dict(at[place]))
    elif accident == "stray":
        elsewhere.append(dict(at[place]))
    elif accident == "rename":
        at[place] = at[place] | {"company": draw(ANYBODY)}
    else:
        column = draw(st.sampled_from(sorted(VALUES)))
        value = draw(ODD) if accident == "spoil" else as_stored({"": draw(VALUES[column])})[""]
        at[place] = at[place] | {column: value}


def key(values: Row) -> tuple[str, int]:
    return values["id"], values["group"]


def equal(source: Row, stored: Row) -> bool:
    wanted = as_stored(source)
    return all(wanted[name] == stored[name] and type(wanted[name]) is type(stored[name]) for name in wanted)


def model(table: list[Row], stored: dict[str, list[Row]]) -> tuple[dict[str, Counter[str]], int]:
    """The definitions, word by word: faults per company, and ambiguous keys."""
    found = {company: Counter[str]() for company in COMPANIES}
    for company, at in stored.items():
        own = [values for values in table if values["company"] == company]
        for values in at:
            known = [source for source in table if key(source) == key(values)]
            mine = [source for source in own if key(source) == key(values)]
            if values["company"] != company or (known and not mine):
                found[company]["misrouted"] += 1
            elif not known:
                found[company]["extra"] += 1
            elif not any(equal(source, values) for source in mine):
                found[company]["different"] += 1
        found[company]["duplicated"] += len(at) - len({key(values) for values in at})
        found[company]["missing"] += len([s for s in own if key(s) not in {key(values) for values in at}])
    return found, sum(count > 1 for count in Counter(map(key, table)).values())


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_audit_finds_what_the_definitions_say(monkeypatch: pytest.MonkeyPatch, data: st.DataObject) -> None:
    monkeypatch.setattr(compare, "_MOST_BYTES", data.draw(st.sampled_from([2**20, 2**20, 500]), "most bytes"))
    table = data.draw(tables(), "table")
    stored = data.draw(databases(table), "databases")
    with tempfile.TemporaryDirectory() as directory:
        world = World(Path(directory))
        world.commit(table)
        for company, at in stored.items():
            world.register(company, at, typed=False, keyed=False)
        report = world.audit()
    found, ambiguous = model(table, stored)
    assert faults(report) == {company: +counts for company, counts in found.items() if +counts}
    assert report.ambiguous == ambiguous
    assert report.unregistered == sum(values["company"] not in COMPANIES for values in table)
    check_examples(report, table, stored)


def check_examples(report: AuditReport, table: list[Row], stored: dict[str, list[Row]]) -> None:
    """Examples are rows that there are, and name columns that do differ."""
    for company, at in stored.items():
        for fault, examples in of(report, company).examples.items():
            place = table if fault == "missing" else at
            for example in examples:
                assert example.key in {key(values) for values in place}
                assert bool(example.columns) == (fault == "different")
                assert set(example.columns) <= set(VALUES)
