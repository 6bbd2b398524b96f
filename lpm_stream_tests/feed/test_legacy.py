from pathlib import Path

import pytest

from lpm_stream.errors import SpecError
from lpm_stream.feed.legacy import LegacyFormat
from lpm_stream.feed.load import load_feed
from lpm_stream.feed.spec import FeedSpec
from lpm_stream_tests.feed.test_load import GOOD

LEGACY = """\
  legacy:
    file_name: "{company}/orders_{start}{issue}.csv"
    period: hourly
    time_zone: Europe/Berlin
    delimiter: ";"
    trailer: "T;{count}"
    columns: {ID: id, AT: ordered_at, X: null}
"""


def load(path: Path, legacy: str) -> FeedSpec:
    path.write_text(GOOD + legacy)
    return load_feed(path)


def test_a_good_declaration(tmp_path):
    form = load(tmp_path / "defs.yaml", LEGACY).legacy
    assert form is not None
    assert form.used == {"ID": "id", "AT": "ordered_at"}
    assert form.precision == "1us"


@pytest.mark.parametrize(
    ("change", "line", "field", "said"),
    [
        (("Berlin", "Bielefeld"), 20, "time_zone", "is not an IANA time zone"),
        (('";"', '"::"'), 21, "delimiter", "must be one ASCII character"),
        (('";"', '"\\""'), 17, "legacy", "delimiter and quote are the same"),
        (("{count}", "count"), 22, "trailer", "must be one line with {count}"),
        (("{start}", ""), 18, "file_name", "must have {company} and {start}"),
        (("{issue}", "{number}"), 18, "file_name", "{number} is none of"),
        (("{company}/", "../{company}"), 18, "file_name", "must be a plain path"),
        (("period: hourly", "period: weekly"), 19, "period", "Input should be 'minutely'"),
        (("period: hourly", "perod: hourly"), 19, "perod", "is not a field here"),
        (("{ID: id,", "{"), 17, "legacy", "no column of the file holds id of the primary key"),
        (("AT: ordered_at", "AT: nothing"), 17, "legacy", "nothing is not in the contract"),
        (("AT: ordered_at", "AT: id"), 17, "legacy", "id stands for two columns"),
        (("    period", "    encoding: utf-9\n    period"), 19, "encoding", "is not a text encoding"),
        (("    period", "    encoding: base64\n    period"), 19, "encoding", "is not a text encoding"),
        (("    period", "    start_format: '%Y%m%d'\n    period"), 17, "legacy", "lacks %H"),
        (("    period", "    start_format: '%Y%U'\n    period"), 19, "start_format", "%U cannot be used"),
        (("    period", "    timestamp_format: '%Q'\n    period"), 19, "timestamp_format", "is not a format"),
        (("    period", "    issue_format: R\n    period"), 19, "issue_format", "must have {number}"),
        (("    period", "    null_text: 'true'\n    period"), 17, "legacy", "three different texts"),
        (("    period", "    null_text: 'a;b'\n    period"), 17, "legacy", "stands without quotes"),
        (
            ("    period", "    company_names: {A: x, B: x}\n    period"),
            17,
            "legacy",
            "x stands for two companies",
        ),
    ],
)
def test_a_wrong_declaration_names_line_field_and_fix(tmp_path, change, line, field, said):
    old, new = change
    path = tmp_path / "defs.yaml"
    assert old in LEGACY
    with pytest.raises(SpecError) as caught:
        load(path, LEGACY.replace(old, new))
    found = [text for text in str(caught.value).splitlines() if said in text]
    assert len(found) == 1, str(caught.value)
    assert found[0].startswith(f"{path}:{line}: ")
    assert field in found[0]


@pytest.mark.parametrize(
    ("form", "precision"), [("%H:%M:%S%.6f", "1us"), ("%H:%M:%S.%3f", "1ms"), ("%H:%M:%S", "1s"), ("%H:%M", "1m")]
)
def test_the_precision_of_timestamps(form, precision):
    declared = LegacyFormat(
        file_name="{company}{start}",
        period="daily",
        time_zone="UTC",
        delimiter=",",
        columns={"a": "a"},
        timestamp_format=form,
    )
    assert declared.precision == precision
