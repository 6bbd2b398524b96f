from collections.abc import Iterator
from pathlib import Path

import pytest

from lpm_stream.control.store import ControlStore


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'control' / 'control.db'}"


@pytest.fixture
def store(url: str) -> Iterator[ControlStore]:
    opened = ControlStore(url)
    yield opened
    opened.close()
