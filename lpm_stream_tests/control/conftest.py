from collections.abc import Iterator
from pathlib import Path

import pytest

from lpm_stream.control.store import ControlStore
from lpm_stream_tests import postgresql


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where a control store is to be, for each kind in turn."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'control' / 'control.db'}"
        return
    server: postgresql.Server = request.getfixturevalue("postgresql_server")
    with server.name() as name:
        server.run(f"CREATE DATABASE {name}")
        yield server.url(name).render_as_string()


@pytest.fixture
def store(url: str) -> Iterator[ControlStore]:
    opened = ControlStore(url)
    yield opened
    opened.close()
