"""Fixtures that many tests share."""

import os
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import settings as hypothesis_settings

from lpm_stream import mssql
from lpm_stream.settings import Settings
from lpm_stream.stream import Stream
from lpm_stream_tests import postgresql
from lpm_stream_tests.example import begun
from lpm_stream_tests.kafka.broker import KafkaBroker, running_broker, why_not
from lpm_stream_tests.tsql import driver, odbc

# No deadlines: real files take as long as they take. What fails can be repeated from what is printed.
hypothesis_settings.register_profile("lpm_stream", deadline=None, print_blob=True)
hypothesis_settings.load_profile("lpm_stream")


def pytest_xdist_auto_num_workers() -> int:
    """Most tests wait for processes, disks and clocks: one more at once even where there are only two cores.

    Not where whole demos run against the clock: on a machine that three of them share, checks of latency fail.
    """
    return max(2 if "LPM_TEST_ALL" in os.environ else 3, os.cpu_count() or 1)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings with everything below a temporary directory."""
    monkeypatch.setenv("LPM_STREAM_POLL_SECONDS", "0.01")
    return Settings.load(tmp_path / "home")


@pytest.fixture
def stream(settings: Settings) -> Iterator[Stream]:
    """A stream with an empty source table and the companies A and B."""
    with begun(settings, ["A", "B"]) as opened:
        yield opened


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[postgresql.Server]:
    """A PostgreSQL server."""
    with postgresql.running() as server:
        yield server


@pytest.fixture
def postgresql_url(postgresql_server: postgresql.Server) -> Iterator[str]:
    """The URL of a PostgreSQL database that does not exist yet."""
    with postgresql_server.name() as name:
        yield postgresql_server.url(name).render_as_string()


@pytest.fixture
def tsql(
    postgresql_server: postgresql.Server, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], str]:
    """Makes a database that takes T-SQL, and is PostgreSQL; its URL, by the name of the driver that it is for."""

    def make(name: str) -> str:
        url = sa.make_url(postgresql_url)
        postgresql_server.run(f"CREATE DATABASE {url.database}")
        if name == "pyodbc":
            monkeypatch.setitem(sys.modules, name, odbc)
        else:
            _, errors = mssql.driver(sa.make_url(f"mssql+{name}://"))
            monkeypatch.setattr(mssql, "driver", lambda _url: (driver, errors))
        query = {"socket": postgresql_server.host}
        return sa.URL.create(
            f"mssql+{name}", username="postgres", database=url.database, query=query
        ).render_as_string()

    return make


@pytest.fixture
def tsql_url(request: pytest.FixtureRequest, tsql: Callable[[str], str]) -> str:
    """The URL of a new database that takes T-SQL, and is PostgreSQL; its parameter is a driver's name."""
    return tsql(getattr(request, "param", "mssqlpython"))


@pytest.fixture
def mssql_url() -> Iterator[str]:
    """The URL of a SQL Server database that does not exist yet.

    There is no SQL Server to be had for a test: so without one these tests are skipped, in CI and `make test-all`
    as well. `LPM_TEST_MSSQL_URL` names a server: mssql+mssqlpython://USER:PASSWORD@HOST/DATABASE.
    """
    server = os.environ.get("LPM_TEST_MSSQL_URL")
    if not server:
        pytest.skip("needs a SQL Server: set LPM_TEST_MSSQL_URL")
    url = sa.make_url(server).set(database=f"lpm_test_{uuid.uuid4().hex}")
    yield url.render_as_string(hide_password=False)
    with closing(mssql.connect(url.set(database="master"), autocommit=True)) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {mssql.quoted(url.database or '')}")


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    """A real Kafka broker; where there can be none, its tests are skipped, but fail in CI and `make test-all`."""
    if reason := why_not():
        if os.environ.get("CI") or os.environ.get("LPM_TEST_ALL"):
            pytest.fail(reason)
        pytest.skip(reason)
    with running_broker(tmp_path_factory.mktemp("kafka")) as running:
        yield running
