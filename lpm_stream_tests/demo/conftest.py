from collections.abc import Iterator

import pytest

from lpm_stream.control.registry import register
from lpm_stream.demo.legacy import declare
from lpm_stream.feed.load import overridden
from lpm_stream.settings import Settings
from lpm_stream.stream import Stream, open_stream
from lpm_stream_tests.example import create_table
from lpm_stream_tests.legacy.example import SPEC


@pytest.fixture
def stream(settings: Settings) -> Iterator[Stream]:
    """A demo's stream with an empty source table and the companies A and B."""
    create_table(settings.table_location(SPEC.source_table))
    declare(settings, SPEC)
    with open_stream(settings, overridden(SPEC, settings.home)) as opened:
        register(opened.store, "A")
        register(opened.store, "B")
        yield opened
