"""history: what was delivered on each day, and how fast."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from lpm_stream.cli.common import Feed, Home, Json, console, opened, write_json


def history(
    company: Annotated[str | None, typer.Option(help="Only this company.")] = None,
    days: Annotated[int, typer.Option(min=1, help="How many days, up to today.")] = 30,
    home: Home = None,
    feed: Feed = None,
    json_file: Json = None,
) -> None:
    """Show per UTC day how many changes were delivered, and how long they took from commit to applied."""
    from lpm_stream.control.ledger import read_by_day

    since = datetime.now(UTC) - timedelta(days=days - 1)
    with opened(home, feed, create=False) as stream:
        found = read_by_day(stream.store, stream.spec.name, since, company)
    rows = [
        {"day": f"{day:%Y-%m-%d}", "changes": one.changes, **one.summary()}
        for day, one in found.items()
        if one.changes
    ]
    if json_file:
        write_json(json_file, rows)
        return
    table = Table(box=SIMPLE_HEAD)
    for heading in ("day", "changes", "p50", "p95", "p99", "max"):
        table.add_column(heading, justify="left" if heading == "day" else "right")
    for row in rows:
        seconds = [f"{row[name]:.2f} s" for name in ("p50", "p95", "p99", "max")]
        table.add_row(str(row["day"]), f"{row['changes']:,}", *seconds)
    console.print(table)
