from pathlib import Path

import pytest

from lpm_stream_tests.audit.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    """An empty world."""
    return World(tmp_path)
