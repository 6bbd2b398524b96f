from pathlib import Path

import pytest

from lpm_stream.errors import SpecError
from lpm_stream.feed import load
from lpm_stream.feed.load import load_feed, load_feeds, overridden, override_path

GOOD = """\
type: lpm_stream.components.Feed

attributes:
  name: orders
  description: Orders
  source_table: orders_gold
  company_column: customer
  primary_key: [id]
  event_time_column: ordered_at
  columns:
    - {name: id, type: string, nullable: false, max_length: 40, description: key}
    - {name: customer, type: string, nullable: false, max_length: 450, description: company}
    - name: ordered_at
      type: timestamp
      nullable: false
      description: event time
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "orders" / "defs.yaml"


def said(path: Path, content: str | bytes) -> str:
    """The error for a declaration, without the path that it begins with."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SpecError) as caught:
        load_feed(path)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(str(path)) for line in lines)
    return "\n".join(line.removeprefix(str(path)) for line in lines)


def replaced(old: str, new: str) -> str:
    assert GOOD.count(old) == 1
    return GOOD.replace(old, new)


def test_a_good_declaration(path):
    path.parent.mkdir()
    path.write_text(GOOD)
    spec = load_feed(path)
    assert (spec.name, spec.primary_key, spec.column_names) == (
        "orders",
        ("id",),
        ["id", "customer", "ordered_at"],
    )


def test_the_feeds_of_the_package_are_right():
    assert "tdr" in load_feeds()


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("  source_table: orders_gold\n", "", ":3: source_table: is required; add it"),
        ("  source_table:", "  sauce_table:", ":3: source_table: is required; add it"),
        ("name: orders\n", "name: Orders\n", ":4: name: String should match pattern"),
        ("primary_key: [id]", "primary_key: [nothing]", ":3: attributes: primary_key: 'nothing' is not among"),
        ("primary_key: [id]", "primary_key: id", ":8: primary_key: Input should be a valid tuple"),
        ("primary_key: [id]", "primary_key: [id, [id]]", ":8: primary_key.1: Input should be a valid string"),
        ("type: timestamp", "type: datetime", ":14: columns.2.type: Input should be 'string', 'int32'"),
        ("      description: event time\n", "", ":13: columns.2.description: is required; add it"),
        ("nullable: false\n", "nullable: perhaps\n", ":15: columns.2.nullable: Input should be a valid boolean"),
        ("max_length: 40", "max_length: forty", ":11: columns.0.max_length: Input should be a valid integer"),
        ("max_length: 40", "max_lenght: 40", ":11: columns.0.max_lenght: is not a field here"),
        (
            "type: timestamp",
            "type: timestamp\n      max_length: 3",
            ":13: columns.2: column ordered_at: max_length",
        ),
    ],
)
def test_a_wrong_declaration_names_file_line_field_and_fix(path, old, new, wanted):
    assert said(path, replaced(old, new)).startswith(wanted)


def test_every_problem_has_a_line_of_its_own(path):
    content = replaced("type: timestamp", "type: datetime").replace("name: orders\n", "name: Orders\n")
    assert [line.split(": ")[0] for line in said(path, content).splitlines()] == [":4", ":14"]
    misspelt = replaced("  source_table:", "  sauce_table:")
    assert said(path, misspelt).endswith(":6: sauce_table: is not a field here; remove it or correct its name")


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ("", ":1: expected 'type: lpm_stream.components.Feed'"),
        ("- a\n- b\n", ":1: expected 'type:"),
        ("just text", ":1: expected 'type:"),
        ("type: other.Component\nattributes: {}\n", ":1: expected 'type:"),
        ("type: lpm_stream.components.Feed\n", ":1: expected 'type:"),
        ("type: lpm_stream.components.Feed\nattributes:\n", ":2: attributes: Input should be"),
        ("type: lpm_stream.components.Feed\nattributes: 7\n", ":2: attributes: Input should be"),
        ("a: [1,\nb: 2\n", ":3: not valid YAML: expected ',' or ']'"),
        ("a: 'never closed\n", ":2: not valid YAML"),
        ("\ttab: 1\n", ":1: not valid YAML"),
        ("a: &x 1\nb: *y\n", ":2: not valid YAML"),
        ("a: 1\n---\nb: 2\n", ":2: not valid YAML"),
        ("a: !!python/object:os.system 1\n", ":1: not valid YAML"),
        (b"\xff\xfe\x00garbage\xff", ": not valid YAML"),
        (b"a: \xe9\n", ": not valid YAML"),
        (b"a: \x00\n", ": not valid YAML"),
    ],
    ids=str,
)
def test_what_is_no_declaration(path, content, wanted):
    assert said(path, content).startswith(wanted)


def test_a_missing_file(path):
    with pytest.raises(SpecError, match="cannot be read"):
        load_feed(path)


def test_two_feeds_of_one_name_are_refused(tmp_path, monkeypatch):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "defs.yaml").write_text(GOOD)
    monkeypatch.setattr(load, "FEEDS", tmp_path)
    with pytest.raises(SpecError, match=r"two/defs\.yaml: .*orders.*one/defs\.yaml"):
        load_feeds()


@pytest.mark.parametrize("minutes", [0, 7, 90, 1000, 2880])
def test_a_pause_that_does_not_fit_the_clock(path, minutes):
    assert ": checks.every_minutes: " in said(path, f"{GOOD}  checks: {{every_minutes: {minutes}}}\n")


def test_a_home_directory_may_have_a_feed_otherwise(path, tmp_path):
    path.parent.mkdir()
    path.write_text(f"{GOOD}  checks: {{grace_seconds: 7, quarantined_rows: 3}}\n")
    spec = load_feed(path)
    assert overridden(spec, tmp_path) == spec
    mine = override_path(spec, tmp_path)
    mine.parent.mkdir()
    mine.write_text("slo_seconds: 5\nchecks: {grace_seconds: 9}\n")
    other = overridden(spec, tmp_path)
    assert (other.slo_seconds, other.checks.grace_seconds, other.checks.quarantined_rows) == (5, 9, 3)
    assert other.columns == spec.columns


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("checks: {graze_seconds: 9}", "1: checks.graze_seconds: is not a field here"),
        ("slo_seconds: -1", "1: slo_seconds: Input should be greater than 0"),
        ("- 1", "1: expected fields of a feed"),
        ("a: [", "1: not valid YAML"),
    ],
)
def test_what_is_wrong_in_a_home_directory_is_said(path, tmp_path, content, problem):
    path.parent.mkdir()
    path.write_text(GOOD)
    spec = load_feed(path)
    mine = override_path(spec, tmp_path)
    mine.parent.mkdir()
    mine.write_text(content)
    with pytest.raises(SpecError, match=f"^{mine}:{problem}"):
        overridden(spec, tmp_path)
