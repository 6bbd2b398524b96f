"""A legacy file of 1,000,000 rows compared with the company's table: time and memory of `lpm-stream reconcile`."""

import json
import os
import shutil
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from deltalake import write_deltalake

from bench.commands import peak_memory_bytes, run, start
from bench.measure import Measure
from lpm_stream.control import registry
from lpm_stream.defs.tdr.simulate import new_rows
from lpm_stream.feed.load import load_feeds
from lpm_stream.legacy.location import open_location
from lpm_stream.legacy.names import period_at
from lpm_stream.legacy.simulate import write_file
from lpm_stream.settings import Settings
from lpm_stream.source.simulated_table import SimulatedTable
from lpm_stream.stream import open_stream

ROWS, ROWS_PER_COMMIT, COMPANY = 1_000_000, 20_000, "ACME"
FIRST_MINUTE = 9  # calls begin up to some minutes before their records are written


def measure(home: Path) -> list[Measure]:
    """Delivers an hour of rows, writes the hour's file, and compares them."""
    shutil.rmtree(home, ignore_errors=True)
    settings = Settings.load(home)
    spec = load_feeds()["tdr"]
    table = settings.table_location(spec.source_table)
    SimulatedTable(spec, table)
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=2)
    rng = np.random.default_rng(1)
    for number in range(ROWS // ROWS_PER_COMMIT):
        rows = new_rows(rng, [COMPANY], ROWS_PER_COMMIT, hour + timedelta(minutes=FIRST_MINUTE + number))
        write_deltalake(table, rows.select(spec.column_names).to_arrow(), mode="append")
    with open_stream(settings, spec) as stream:
        registry.register(stream.store, COMPANY)
    for drain in ("publish", "deliver"):
        run(drain, home=home)
    with open_location(settings) as location:
        # Cut now, from the newest version: the commits are of today, the rows of an hour before.
        form = spec.legacy
        assert form is not None
        cut_now = form.model_copy(update={"cut_seconds": (datetime.now(UTC) - hour).total_seconds()})
        now_spec = spec.model_copy(update={"legacy": cut_now})
        written = write_file(now_spec, table, location, COMPANY, period_at(form, hour))
    assert written.path is not None
    os.utime(home / "legacy" / written.path, (hour.timestamp(), hour.timestamp()))  # it has settled
    begun = time.perf_counter()
    process = start("reconcile", "--since", hour.isoformat(), "--json", str(home / "result.json"), home=home)
    memory = 0
    while process.poll() is None:
        with suppress(FileNotFoundError, StopIteration):  # it ends while it is looked at
            memory = max(memory, peak_memory_bytes(process))
        time.sleep(0.02)
    seconds = time.perf_counter() - begun
    results = json.loads((home / "result.json").read_text(encoding="utf-8"))["results"]
    result = next(one for one in results if one["file"] == written.path)
    assert (result["verdict"], result["faults"]["rows_in_file"]) == ("passed", written.rows), result
    return [
        Measure("legacy: rows of the file", written.rows, "rows"),
        Measure("legacy: a 1 M-row file compared", seconds, "s", 10),
        Measure("legacy: peak memory", memory / 2**20, "MiB", 500),
    ]
