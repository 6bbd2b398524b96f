import json
from datetime import UTC, datetime, timedelta

from typer.testing import CliRunner

from lpm_stream.cli.app import app
from lpm_stream.control import ledger
from lpm_stream.control.latency import Latencies
from lpm_stream.feed.load import load_feeds
from lpm_stream.settings import Settings
from lpm_stream.stream import open_stream


def test_days_are_shown_for_all_and_for_one_company(tmp_path):
    now = datetime.now(UTC)
    with open_stream(Settings.load(tmp_path), load_feeds()["tdr"]) as stream, stream.store.write() as connection:
        for company, age, seconds in [("A", 0, 1.0), ("B", 0, 2.0), ("A", 3, 3.0), ("A", 99, 4.0)]:
            latencies = Latencies()
            latencies.add(seconds, 1_000)
            minute = (now - timedelta(days=age)).replace(second=0, microsecond=0)
            ledger.record(connection, "tdr", {(company, minute): latencies})

    def shown(*arguments: str) -> list[tuple[str, int, float]]:
        result = CliRunner().invoke(app, ["history", "--dir", str(tmp_path), "--json", "-", *arguments])
        assert result.exit_code == 0, result.output
        return [(row["day"], row["changes"], row["max"]) for row in json.loads(result.stdout)]

    today, before = (f"{now - timedelta(days=age):%Y-%m-%d}" for age in (0, 3))
    assert shown() == [(before, 1000, 3.0), (today, 2000, 2.0)]
    assert shown("--company", "A") == [(before, 1000, 3.0), (today, 1000, 1.0)]
    assert shown("--days", "1") == [(today, 2000, 2.0)]
    assert "2,000" in CliRunner().invoke(app, ["history", "--dir", str(tmp_path)]).stdout
