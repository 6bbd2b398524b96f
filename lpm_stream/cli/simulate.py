"""simulate: a source table with traffic, where there is no lakehouse at hand."""

import math
from typing import Annotated

import typer

from lpm_stream.cli.common import Feed, Home, Json, beside, opened, require_writable, stop_on_signals, write_json

Rate = Annotated[float, typer.Option(min=0.1, help="Changed rows a second, all companies together.")]
Companies = Annotated[int, typer.Option(min=1, max=10_000, help="Number of companies.")]


def simulate(
    rate: Rate = 200,
    companies: Companies = 5,
    seconds: Annotated[float | None, typer.Option("--for", min=0, help="Stop after so many seconds.")] = None,
    seed: Annotated[int | None, typer.Option(help="Makes the rows repeatable.")] = None,
    home: Home = None,
    feed: Feed = None,
    json_file: Json = None,
) -> None:
    """Keep committing realistic changes to the source table, which is created if there is none."""
    from lpm_stream.control import registry
    from lpm_stream.source.simulate import Simulator

    stop = stop_on_signals()
    with opened(home, feed) as stream:
        require_writable(json_file)
        ids = simulated_companies(companies)
        for company in ids:
            registry.register(stream.store, company)
        simulator = Simulator(stream.spec, stream.table, ids, rate, seed)
        done = simulator.run(stop, math.inf if seconds is None else seconds)
    if json_file:
        write_json(json_file, done)
    beside(json_file).print(f"committed {done.changes:,} changed rows in {done.versions:,} versions")


def simulated_companies(count: int) -> list[str]:
    """Ids for simulated companies."""
    return [f"COMPANY-{number:0{max(2, len(str(count)))}}" for number in range(1, count + 1)]
