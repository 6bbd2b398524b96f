from datetime import UTC, datetime, timedelta

import dagster as dg

from lpm_stream.components.tidying import tidy_definitions
from lpm_stream.control import ledger
from lpm_stream.control.latency import Latencies
from lpm_stream.control.tables import ledger as minutes


def test_the_job_tidies_the_ledger_and_dagster(settings, stream, instance, monkeypatch):
    monkeypatch.setenv("LPM_STREAM_DAGSTER_EVENT_DAYS", "1e-9")
    received = Latencies()
    received.add(1.5, 7)
    now = datetime.now(UTC)
    with stream.store.write() as connection:
        for age in (timedelta(0), timedelta(days=40), timedelta(days=41)):
            ledger.record(connection, "f", {("A", (now - age).replace(second=0, microsecond=0)): received})
    key = dg.AssetKey("table")
    for _ in range(3):
        instance.report_runless_asset_event(dg.AssetMaterialization(key, partition="A"))

    defs = tidy_definitions()
    assert defs.get_job_def("tidy").execute_in_process(instance=instance).success
    assert len(instance.fetch_materializations(key, 10).records) == 1
    with stream.store.read() as connection:
        assert len(connection.execute(minutes.select()).all()) == 1
    days = ledger.read_by_day(stream.store, "f", now - timedelta(days=50))
    assert [one.changes for one in days.values()] == [7] * 3
