import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

import lpm_stream.control
from lpm_stream.control import registry
from lpm_stream.control.ledger import read_totals
from lpm_stream.control.store import HEAD, ControlStore, upsert
from lpm_stream.control.tables import checkpoints, ledger, metadata
from lpm_stream.errors import LpmStreamError

MIGRATIONS = Path(lpm_stream.control.__file__).parent / "migrations"


def test_the_migrations_make_what_the_tables_say(store):
    with store.write() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_a_new_store_is_at_the_newest_migration(store):
    with store.read() as connection:
        assert connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalars().all() == [HEAD]
    assert ScriptDirectory(str(MIGRATIONS)).get_current_head() == HEAD


def test_what_an_older_store_has_in_its_ledger_is_counted(url):
    insert = ledger.insert().values(
        feed="f", company="A", changes=3, latency='{"longest": 1, "buckets": {"1": 3}}'
    )
    with closing(ControlStore(url)) as store, store.write() as connection:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        command.downgrade(config, "0008-1")
        for minute in range(2):
            connection.execute(insert.values(minute=datetime(2026, 1, 2, 3, minute, tzinfo=UTC)))
    with closing(ControlStore(url)) as store:
        assert read_totals(store, "f") == {"A": 6}


def test_a_store_is_opened_again_as_it_was_left(url):
    with closing(ControlStore(url)) as first:
        registry.register(first, "A")
    with closing(ControlStore(url)) as second:
        assert registry.registered(second) == ["A"]


def test_processes_may_open_a_new_store_at_once(url):
    command = [sys.executable, "-W", "error", "-m", "lpm_stream_tests.control.worker", "open", url]
    processes = [subprocess.Popen([*command, f"company {number}"]) for number in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    with closing(ControlStore(url)) as store:
        assert registry.registered(store) == sorted(["everybody's", *(f"company {number}" for number in range(4))])


def test_a_failing_transaction_leaves_nothing(store):
    def work() -> None:
        values = {"sequence_number": 1, "updated_at": datetime.now(UTC)}
        with store.write() as connection:
            upsert(connection, checkpoints, {"feed": "f", "partition": 0}, values)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    with store.read() as connection:
        assert connection.execute(sa.select(checkpoints)).all() == []


def test_a_read_sees_one_state_while_another_writes(store):
    registry.register(store, "A")
    with store.read() as connection:
        query = sa.text("SELECT count(*) FROM companies")
        assert connection.execute(query).scalar() == 1
        registry.register(store, "B")
        assert connection.execute(query).scalar() == 1
    assert registry.registered(store) == ["A", "B"]


def test_a_locked_store_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("lpm_stream.control.store._BUSY_SECONDS", 0.05)
    with (
        closing(ControlStore(f"sqlite:///{tmp_path}/c.db")) as store,
        closing(sqlite3.connect(tmp_path / "c.db")) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LpmStreamError, match=r"c\.db.*locked$"):
            registry.register(store, "A")
        assert registry.registered(store) == []
        other.rollback()
        assert registry.register(store, "A")


def test_a_full_store_is_an_error_and_keeps_what_it_has(tmp_path):
    store = ControlStore(f"sqlite:///{tmp_path}/control.db")
    registry.register(store, "A")

    def limit(dbapi_connection: sqlite3.Connection, _record: object) -> None:
        dbapi_connection.execute("PRAGMA max_page_count = 1")

    store._engine.dispose()
    sa.event.listen(store._engine, "connect", limit)

    def fill() -> None:
        for number in range(5_000):
            registry.register(store, f"{number:0>400}")

    with pytest.raises(LpmStreamError, match="full"):
        fill()
    assert "A" in registry.registered(store)
    store.close()


def test_where_the_disk_is_full_it_is_said_what_to_check(tmp_path):
    """As on a disk that has no room for another byte: SQLite calls that an I/O error."""
    url = f"sqlite:///{tmp_path}/control.db"
    ControlStore(url).close()
    script = (
        "import resource, sys; from lpm_stream.control.store import ControlStore\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        "try: ControlStore(sys.argv[1])\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", script, url], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"LpmStreamError control store {url}: ")
    assert done.stdout.endswith("; check free space and permissions\n")


def test_a_file_of_garbage_is_an_error(tmp_path):
    (tmp_path / "c.db").write_bytes(b"garbage" * 1_000)
    with pytest.raises(LpmStreamError, match=r"c\.db.*not a database"):
        ControlStore(f"sqlite:///{tmp_path}/c.db")


def test_a_store_below_a_file_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(LpmStreamError, match="choose another --dir"):
        ControlStore(f"sqlite:///{tmp_path}/file/below/c.db")


def test_a_postgresql_store_that_another_writes_to_is_an_error(postgresql_server, monkeypatch):
    monkeypatch.setattr("lpm_stream.control.store._BUSY_SECONDS", 0.05)
    with postgresql_server.name() as name:
        postgresql_server.run(f"CREATE DATABASE {name}")
        with closing(ControlStore(postgresql_server.url(name).render_as_string())) as store:
            with store.write(), pytest.raises(LpmStreamError, match="lock timeout"):
                registry.register(store, "A")
            assert registry.register(store, "A")


@pytest.mark.parametrize(
    "url", ["postgresql://me:hush@127.0.0.1:1/d", "postgresql://me@127.0.0.1:1/d?password=hush"]
)
def test_a_postgresql_store_that_is_down_is_an_error_and_the_password_is_not_shown(url):
    with pytest.raises(LpmStreamError, match=r"control store postgresql.*127\.0\.0\.1.*refused") as caught:
        ControlStore(url)
    assert "hush" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_the_driver_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(LpmStreamError, match=r"pip install 'lpm-stream\[postgresql\]'"):
        ControlStore("postgresql://host/db")


@pytest.mark.parametrize("kind", ["mssql+pyodbc", "mssql+mssqlpython", "mysql"])
def test_a_store_of_another_kind_is_refused_before_anything_is_tried(kind):
    with pytest.raises(LpmStreamError, match=f"control store cannot be in {kind.partition('+')[0]}: give a URL"):
        ControlStore(f"{kind}://me@127.0.0.1:1/d")


@pytest.mark.parametrize(
    "url", ["nonsense", "", "postgresql://host", "nonsense://x/y", "sqlite://user@host:port/"]
)
def test_a_url_that_is_none_is_an_error(url):
    with pytest.raises(LpmStreamError, match="LPM_STREAM_CONTROL_URL"):
        ControlStore(url)
