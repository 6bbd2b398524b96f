from pathlib import Path

import pytest
from pydantic import ValidationError

from lpm_stream.control import entries, registry
from lpm_stream.control.company import Company, said
from lpm_stream.control.registry_file import Change, as_yaml, changes, read_file
from lpm_stream.errors import SpecError
from lpm_stream.settings import Settings
from lpm_stream_tests.example import SPEC

FEEDS = {"orders": SPEC}
WHOLE = """\
companies:
  - id: ACME
    name: ACME Public Safety
    database: env:ACME_DATABASE
    feeds: [orders]
    groups: [base]
    slo_seconds: 30
    state: paused
    labels: {region: east}
    contacts: [ops@acme.example, "+1 555 0100"]
  - id: it's / C%
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "companies.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_is_read_and_written_alike(tmp_path):
    companies = read_file(written(tmp_path, WHOLE), FEEDS)
    assert companies == [
        Company(
            id="ACME",
            name="ACME Public Safety",
            database="env:ACME_DATABASE",
            feeds=("orders",),
            slo_seconds=30,
            state="paused",
            labels={"region": "east"},
            contacts=("ops@acme.example", "+1 555 0100"),
        ),
        Company(id="it's / C%"),
    ]
    assert read_file(written(tmp_path, as_yaml(companies)), FEEDS) == companies


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("companies: [", r"companies.yaml:1: not valid YAML"),
        ("- id: A", r"companies.yaml:1: expected 'companies:' with a list"),
        ("companies:\n  - name: x\n", r"companies.yaml:2: id: is required; add it"),
        ("companies:\n  - id: A\n    grops: [base]\n", r"companies.yaml:3: grops: is not a field here; remove it"),
        ("companies:\n  - id: A\n    groups: [nope]\n", r"companies.yaml:2: groups: 'nope' is none of all, base"),
        ("companies:\n  - id: A\n    feeds: [nope]\n", r"companies.yaml:2: feeds: 'nope' is none of orders"),
        ("companies:\n  - id: A\n    state: gone\n", r"companies.yaml:3: state: .*'paused'"),
        ("companies:\n  - id: A\n    slo_seconds: -1\n", r"companies.yaml:3: slo_seconds: .*greater than 0"),
        ("companies:\n  - id: A\n    slo_seconds: 1e14\n", r"companies.yaml:3: slo_seconds: .*31536000"),
        ("companies:\n  - id: A\n    slo_seconds: .inf\n", r"companies.yaml:3: slo_seconds: .*finite number"),
        (
            "companies:\n  - id: A\n  - id: a\n",
            r"yaml:3: id: 'a' is declared twice, or differs from 'A'",
        ),
        ("companies:\n  - A\n", r"companies.yaml:2: companies.0: .*valid dictionary"),
    ],
)
def test_what_is_wrong_is_said_by_line_and_field(tmp_path, text, said):
    with pytest.raises(SpecError, match=said):
        read_file(written(tmp_path, text), FEEDS)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(SpecError, match=r"nowhere\.yaml: cannot be read"):
        read_file(tmp_path / "nowhere.yaml", FEEDS)


@pytest.mark.parametrize(
    "database",
    [
        "postgresql://me:hush@host/db",
        "postgresql://host/db?password=hush",
        "mssql+pyodbc:///?odbc_connect=Driver%3DX%3BUid%3Dme%3BPwd%3Dhush",
        "postgresql://host/db?sslpassword=hush",
    ],
)
def test_a_password_is_refused_and_not_repeated(tmp_path, database):
    with pytest.raises(ValidationError) as caught:
        Company(id="A", database=database)
    message = said(caught.value)
    assert "give a reference for it" in message
    assert "hush" not in message
    with pytest.raises(SpecError, match=r"companies.yaml:3: database: .*env:NAME") as in_file:
        read_file(written(tmp_path, f"companies:\n  - id: A\n    database: {database}\n"), FEEDS)
    assert "hush" not in str(in_file.value)


@pytest.mark.parametrize("database", ["nonsense", "env:", "", "file:"])
def test_what_is_no_database_is_refused(database):
    with pytest.raises(ValidationError, match="env:NAME"):
        Company(id="A", database=database)


def test_the_difference_is_shown_field_by_field():
    before = Company(id="A", labels={"x": "1"}, groups=("base", "notes"))
    after = Company(id="A", labels={"x": "2"}, slo_seconds=5)
    assert list(Change(before, after).lines()) == [
        "~ A",
        "  - groups: [base, notes]",
        "  + groups: [base]",
        "  + slo_seconds: 5.0",
        "  - labels: {x: '1'}",
        "  + labels: {x: '2'}",
    ]
    assert list(Change(None, Company(id="A")).lines()) == ["+ A", "  + groups: [base]"]


def test_only_what_differs_changes(store):
    registry.register(store, "A")
    registry.register(store, "B")
    known = entries.read_all(store)
    a, b = (entry.company for entry in known)
    wanted = [a, b.model_copy(update={"name": "B & Co"}), Company(id="C")]
    assert changes(known, wanted) == [Change(b, wanted[1]), Change(None, wanted[2])]


def test_a_company_that_was_removed_counts_as_new(store):
    registry.register(store, "A")
    entries.set_state(store, "A", "offboarding")
    known = entries.read_all(store)
    assert changes(known, [Company(id="A")]) == [Change(None, Company(id="A"))]
    assert changes(known, [Company(id="A", state="offboarding")]) == []


@pytest.mark.parametrize(
    ("change", "loads"),
    [
        ({"groups": ("base", "notes")}, True),
        ({"groups": ("all",)}, True),
        ({"groups": ("base",)}, False),
        ({"database": "env:X"}, True),
        ({"feeds": ("f", "g")}, True),
        ({"feeds": ()}, True),
        ({"feeds": ("f",), "slo_seconds": 3.0, "labels": {"x": "y"}}, False),
    ],
)
def test_what_a_change_takes_to_load(store, change, loads):
    registry.register(store, "A")
    start = entries.read(store, "A").company
    before = start.model_copy(update={"groups": ("base", "more"), "feeds": ("f",)})
    with store.write() as connection:
        entries.change(connection, start, before)
        entries.change(connection, before, before.model_copy(update=change))
    assert registry.to_load(store, "f") == (["A"] if loads else [])


def test_only_the_feeds_that_it_receives(store, tmp_path):
    registry.register(store, "A")
    before = entries.read(store, "A").company
    with store.write() as connection:
        entries.change(connection, before, before.model_copy(update={"feeds": ("f",), "slo_seconds": 9.0}))
    assert (registry.registered(store, "f"), registry.registered(store, "g")) == (["A"], [])
    assert registry.served(store, Settings.load(tmp_path), "g") == {}
    assert registry.slos(store) == {"A": 9.0}


def test_a_password_that_was_stored_before_is_not_shown(store):
    registry.register(store, "A", "postgresql://me:hush@host/db")
    text = as_yaml([entry.company for entry in entries.read_all(store)])
    assert "hush" not in text
    assert "host/db" in text
