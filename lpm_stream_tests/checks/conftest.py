from collections.abc import Iterator

import pytest

from lpm_stream.settings import Settings
from lpm_stream.stream import Stream
from lpm_stream_tests.checks.example import SPEC
from lpm_stream_tests.example import begun


@pytest.fixture
def stream(settings: Settings) -> Iterator[Stream]:
    """A stream with legacy files, an empty source table, and the companies A and B."""
    with begun(settings, ["A", "B"], SPEC) as opened:
        yield opened
