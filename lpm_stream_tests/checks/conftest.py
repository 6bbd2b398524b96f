from collections.abc import Iterator

import pytest

from lpm_stream.control.registry import register
from lpm_stream.settings import Settings
from lpm_stream.stream import Stream, open_stream
from lpm_stream_tests.checks.example import SPEC
from lpm_stream_tests.example import create_table


@pytest.fixture
def stream(settings: Settings) -> Iterator[Stream]:
    """A stream with legacy files, an empty source table, and the companies A and B."""
    create_table(settings.table_location(SPEC.source_table))
    with open_stream(settings, SPEC) as opened:
        register(opened.store, "A")
        register(opened.store, "B")
        yield opened
