"""A feed of the tests' own as Dagster sees it: its stream, its definitions, an instance."""

from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg
import pytest
from deltalake import DeltaTable

from lpm_stream.components import Feed
from lpm_stream.components.stopping import for_seconds
from lpm_stream.control.progress import read_cursor
from lpm_stream.settings import Settings
from lpm_stream.stream import Stream
from lpm_stream_tests.example import SPEC, undelivered

Tick = Callable[..., Any]


@pytest.fixture
def settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The environment that sensors and runs read their settings from."""
    monkeypatch.setenv("LPM_STREAM_HOME", str(settings.home))
    monkeypatch.setenv("LPM_STREAM_TICK_SECONDS", "30")
    return Settings.load()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster instance in memory."""
    with dg.DagsterInstance.ephemeral() as opened:
        yield opened


@pytest.fixture
def defs(settings: Settings) -> dg.Definitions:
    """The definitions of the tests' feed."""
    return dg.build_defs_for_component(Feed(SPEC))


@pytest.fixture
def tick(
    defs: dg.Definitions, instance: dg.DagsterInstance, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> Tick:
    """Evaluates one tick of a sensor and stores what it returns, as Dagster's daemon would.

    A tick ends as soon as there is nothing left to publish or deliver, or when its time is over.
    """

    def is_to_publish() -> bool:
        cursor = read_cursor(stream.store, SPEC.name)
        return cursor is None or cursor.version < DeltaTable(stream.table).version()

    work: dict[str, Callable[[], bool]] = {
        "publish_orders": is_to_publish,
        "deliver_orders": lambda: undelivered(stream) > 0,
    }

    def evaluate(name: str, cursor: str | None = None) -> Any:
        def while_busy(seconds: float) -> Callable[[], bool]:
            in_time = for_seconds(seconds)
            return lambda: in_time() and (name not in work or work[name]())

        monkeypatch.setattr("lpm_stream.components.ticks.for_seconds", while_busy)
        with dg.build_sensor_context(instance, cursor) as context:
            data = defs.get_repository_def().get_sensor_def(name).evaluate_tick(context)
        for event in data.asset_events:
            instance.report_runless_asset_event(event)
        for request in data.dynamic_partitions_requests or []:
            instance.add_dynamic_partitions(request.partitions_def_name, request.partition_keys)
        return data

    return evaluate
