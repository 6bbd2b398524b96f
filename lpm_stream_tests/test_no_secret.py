"""A database's password is in nothing that a real run writes, whatever goes wrong."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from urllib.parse import quote

import dagster as dg
import pytest

from lpm_stream.components.partitions import partition_key
from lpm_stream.control.registry import register
from lpm_stream.control.store import ControlStore
from lpm_stream.definitions import defs
from lpm_stream.feed.load import load_feeds
from lpm_stream.settings import Settings
from lpm_stream.source.simulate import Simulator
from lpm_stream_tests.postgresql import Server

CORE = "Pa55wordThatNobodyMaySee"  # stands in the text whichever way the rest is escaped
PASSWORD = f"it's @/{CORE}%"
COMPANIES = ["ACME", "BYPW", "WRONG", "DOWN", "TYPO"]


@pytest.fixture
def server(postgresql_server: Server) -> Iterator[Server]:
    """The server, which asks its role `app` for a password."""
    [(path,)] = postgresql_server.run("SHOW hba_file")
    rules = Path(path).read_text(encoding="utf-8")
    Path(path).write_text(f"local all app scram-sha-256\n{rules}", encoding="utf-8")
    literal = PASSWORD.replace("'", "''")
    postgresql_server.run(f"CREATE ROLE app LOGIN CREATEDB PASSWORD '{literal}'")
    postgresql_server.run("SELECT pg_reload_conf()")
    yield postgresql_server
    for (name,) in postgresql_server.run(
        "SELECT datname FROM pg_database JOIN pg_roles r ON datdba = r.oid WHERE rolname = 'app'"
    ):
        postgresql_server.run(f"DROP DATABASE {name} WITH (FORCE)")
    postgresql_server.run("DROP ROLE app")
    Path(path).write_text(rules, encoding="utf-8")
    postgresql_server.run("SELECT pg_reload_conf()")


@pytest.fixture
def home(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory with a table, and an environment with secrets for each kind of trouble."""
    password, host = quote(PASSWORD, safe=""), quote(server.host, safe="")
    secrets = {
        "ACME_URL": f"postgresql://app:{password}@/lpm_acme?host={host}",
        "APP_PASSWORD": PASSWORD,
        "WRONG_PASSWORD": f"not {PASSWORD}",
        "DOWN_URL": f"postgresql://app:{password}@127.0.0.1:1/lpm_down",
        "TYPO_URL": f"postgresql://app:typo@{CORE}@host/lpm",
        "LPM_STREAM_HOME": str(tmp_path / "home"),
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    settings = Settings.load()
    [spec] = load_feeds().values()
    Simulator(spec, settings.table_location(spec.source_table), COMPANIES, rate=60, seed=1).step(datetime.now(UTC))
    return settings.home


@pytest.fixture
def said(tmp_path: Path) -> Path:
    """Where everything goes that commands say."""
    folder = tmp_path / "said"
    folder.mkdir()
    return folder


def run(said: Path, *arguments: str) -> str:
    words = arguments[0].split(" ") + list(arguments[1:])
    done = subprocess.run(
        [sys.executable, "-m", "lpm_stream", "--debug", *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"COLUMNS": "250"},
    )
    text = f"{done.stdout}\n{done.stderr}"
    (said / f"{'_'.join(arguments).replace('/', '_')[:30]}.log").write_text(text, encoding="utf-8")
    return text


def load(instance: dg.DagsterInstance, company: str) -> bool:
    key = partition_key(company)
    job = defs().resolve_job_def("backfill_tdr")
    return job.execute_in_process(instance=instance, partition_key=key, raise_on_error=False).success


def holding(folder: Path, text: str) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def test_the_password_is_nowhere(tmp_path, home, said, server):
    by_password = f"?host={quote(server.host, safe='')}&password=env:"
    places = {
        "ACME": "env:ACME_URL",
        "BYPW": f"postgresql://app@/lpm_bypw{by_password}APP_PASSWORD",
        "WRONG": f"postgresql://app@/lpm_acme{by_password}WRONG_PASSWORD",
        "DOWN": "env:DOWN_URL",
        "TYPO": "env:TYPO_URL",
    }
    assert "is registered" in run(said, "companies", "add", "ACME", "--database", places.pop("ACME"))
    with closing(ControlStore(Settings.load().control_url)) as store:
        for company, place in places.items():
            register(store, company, place)
    run(said, "publish")
    run(said, "deliver")
    status = run(said, "status")
    assert "password authentication failed" in status
    run(said, "backfill", *COMPANIES)
    with ThreadPoolExecutor(4) as pool:
        *_, doctor = pool.map(partial(run, said), ["verify", "alerts run", "audit", "doctor"])
    for problem in ("password authentication failed", "an @ too many", "Connection refused"):
        assert problem in doctor
    (tmp_path / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "dagster")) as instance:
        instance.add_dynamic_partitions("info_companyid", [partition_key(one) for one in COMPANIES])
        assert load(instance, "ACME")
        assert not any(load(instance, company) for company in ("WRONG", "DOWN", "TYPO"))
    for database in ("lpm_acme", "lpm_bypw"):  # so the password was used
        assert server.run("SELECT count(*) > 0 FROM tdr", database) == [(True,)]
    assert holding(tmp_path, "WRONG_PASSWORD")  # what is written is found
    assert len(holding(tmp_path / "dagster", "password authentication failed")) > 0
    assert holding(tmp_path, CORE) == []


def test_a_control_store_with_a_password_by_reference(server, home, monkeypatch):
    server.run("CREATE DATABASE lpm_control OWNER app")
    place = f"postgresql://app@/lpm_control?host={quote(server.host, safe='')}&password=env:"
    ControlStore(f"{place}APP_PASSWORD").close()
    for wrong in ("WRONG_PASSWORD", "NOT_SET"):
        with pytest.raises(
            Exception, match=r"^control store.*(authentication failed|NOT_SET is not set)"
        ) as caught:
            ControlStore(f"{place}{wrong}")
        assert CORE not in str(caught.getrepr(showlocals=False, style="long"))
