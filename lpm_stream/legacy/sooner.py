"""How much earlier the stream brought what a legacy file carries."""

from datetime import datetime

import duckdb
import polars as pl

from lpm_stream.audit.sql import same_key
from lpm_stream.control import ledger
from lpm_stream.control.store import ControlStore
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.legacy.commits import Commits
from lpm_stream.legacy.report import Sooner
from lpm_stream.legacy.stage import FILE, STORED, VERSION


def sooner(
    db: duckdb.DuckDBPyConnection,
    spec: FeedSpec,
    store: ControlStore,
    company: str,
    *,
    commits: Commits,
    arrived: datetime,
) -> Sooner | None:
    """What `lpm_stream.legacy.report.Sooner` says, of the staged file; None if nothing is known.

    Args:
        db: the scratch database, with `file` and `stored`.
        spec: the feed as it is compared.
        store: the control store, with the ledger.
        company: whose file.
        commits: of the source table.
        arrived: when the file was last written to. Rows committed later are left out: the file has older values.

    Raises:
        SourceError: if the source table's log cannot be read.
    """
    rows = db.sql(
        f"SELECT s.{VERSION} AS version, count(*) AS rows FROM {FILE} f JOIN {STORED} s "
        f"ON {same_key(spec, 'f', 's')} GROUP BY ALL"
    ).pl()
    if rows.is_empty():
        return None
    times = commits.times(rows["version"].min())
    known = [
        (times[number], count)
        for number, count in rows.iter_rows()
        if number in times and times[number] <= arrived
    ]
    if not known:
        return None
    longest = ledger.longest(store, spec.name, company, min(time for time, _ in known), arrived)
    if longest is None:
        return None
    advances = pl.DataFrame(
        [((arrived - time).total_seconds() - longest, count) for time, count in known],
        schema={"seconds": pl.Float64(), "rows": pl.Int64()},
        orient="row",
    ).sort("seconds")
    total = int(advances["rows"].sum())
    middle = advances.filter(pl.col("rows").cum_sum() * 2 >= total)["seconds"][0]
    return Sooner(total, round(advances["seconds"][0], 3), round(middle, 3))
