"""Database URLs, their references and their passwords, which no message repeats."""

from contextlib import closing

import pytest
import sqlalchemy as sa

from lpm_stream import database_url
from lpm_stream.database_url import parse, require_no_secret, shown, with_password
from lpm_stream.errors import LpmStreamError, TargetFaultError
from lpm_stream.postgresql import connection_string
from lpm_stream.settings import Settings
from lpm_stream.stream import open_hub


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("URL", "postgresql://me:hush@host/db")
    monkeypatch.setenv("PASSWORD", "hush @/?")


def test_a_place_is_a_url_or_refers_to_one():
    assert parse("postgresql://me@host/db").host == "host"
    assert parse("env:URL").password == "hush"
    assert parse("sqlite:////data/a@b/x.db").database == "/data/a@b/x.db"
    assert parse("postgresql://me@host/a@b").database == "a@b"


def test_a_password_may_be_a_reference():
    url = parse("postgresql://me@host/db?password=env:PASSWORD&sslmode=require")
    assert with_password(url) == sa.make_url("postgresql://me@host/db?sslmode=require").set(password="hush @/?")
    assert "password='hush @/?'" in connection_string(url)
    assert "env:PASSWORD" not in connection_string(url)
    assert "hush" not in shown("postgresql://me@host/db?password=env:PASSWORD")
    plain = sa.make_url("postgresql://me@host/db?password=hush")
    assert with_password(plain) is plain


@pytest.mark.parametrize(
    "place",
    [
        "",
        "hush",
        "postgresql://me:pa@hush@host/db",
        "postgresql://me:x@host:hush/db",
        "env:NOTHING",
        "env:",
        "file:/nowhere",
    ],
)
def test_a_place_that_is_none_is_refused_and_not_repeated(place):
    with pytest.raises(TargetFaultError) as caught:
        parse(place, "X")
    assert str(caught.value).startswith("X: ")
    assert "hush" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_url_in_a_secret_that_is_none_is_not_repeated(monkeypatch):
    monkeypatch.setenv("URL", "hush")
    with pytest.raises(TargetFaultError, match="its database: not a SQLAlchemy URL") as caught:
        parse("env:URL")
    assert "hush" not in str(caught.value)


def test_a_password_that_is_nowhere_is_an_error():
    with pytest.raises(TargetFaultError, match="the database's password: environment variable NOTHING is not set"):
        connection_string(parse("postgresql://me@host/db?password=env:NOTHING"))


@pytest.mark.parametrize(
    "place",
    [
        "postgresql://me@host/db",
        "env:URL",
        "file:/x",
        "keyvault:v/s",
        "postgresql://me@host/db?password=env:PASSWORD",
        "postgresql://me@host/db?sslmode=verify-full&options=-csearch_path%3DSCHEMA&passfile=/x",
        "mssql+mssqlpython://host/db?Authentication=ActiveDirectoryMsi&UID=me&encrypt=strict",
        "mssql+pyodbc://me@host/db?driver=ODBC+Driver+17+for+SQL+Server&password=env:PASSWORD",
        "sqlite:////data/a@b/x.db",
    ],
)
def test_what_holds_no_password_may_be_stored(place):
    require_no_secret(place)


@pytest.mark.parametrize(
    "place",
    [
        "postgresql://me:hush@host/db",
        "postgresql://me@host/db?password=hush",
        "mssql+pyodbc://?odbc_connect=DRIVER=x;UID=me;PWD=hush",
        "mssql+pyodbc://?odbc_connect=DRIVER=x;{PWD}=hush",
        "mssql+mssqlpython://host/db?UID=me;PWD=hush",
        "mssql+mssqlpython://host/db?PWD+=hush",
        "mssql+mssqlpython://host/db?connection_string=PWD=hush",
        "mssql+mssqlpython://host/db?PWD=env:PASSWORD",  # which nobody looks up
        "postgresql://me@host/db?oauth_client_secret=hush",
        "postgresql://me@host/db?scram_client_key=hush",
        "postgresql://me@host/db?password=env:PASSWORD&password=hush",
        "sqlite:///x.db?key=hush",
        "postgresql://me:pa@hush@host/db",
        "env:",
        "hush",
    ],
)
def test_what_may_hold_a_password_may_not(place):
    with pytest.raises(ValueError, match="env:NAME") as caught:
        require_no_secret(place)
    assert "hush" not in str(caught.value)


def test_places_are_shown_without_their_secrets():
    assert shown("env:URL") == "env:URL"
    assert shown("postgresql://me:hush@host/db?password=hush") == "postgresql://me:***@host/db"
    assert shown("postgresql://me:pa@hush@host/db") == "(not a URL)"
    assert database_url.shown("sqlite:////x.db") == "sqlite:////x.db"


def test_the_hubs_url_may_be_a_reference_whose_text_is_not_repeated(tmp_path, monkeypatch):
    monkeypatch.setenv("HUB", f"local:{tmp_path}/hub")
    settings = Settings.load(tmp_path).model_copy(update={"hub_url": "env:HUB"})
    with closing(open_hub(settings)) as hub:
        assert len(hub.partitions()) == settings.hub_partitions
    monkeypatch.setenv("HUB", "hush:hush")
    with pytest.raises(LpmStreamError, match="LPM_STREAM_HUB_URL: this kind of hub is not supported") as caught:
        open_hub(settings)
    assert "hush" not in str(caught.value)


def test_a_database_template_may_refer_to_a_secret_of_each_company(monkeypatch):
    monkeypatch.setenv("LPM_STREAM_DATABASE_TEMPLATE", "env:URL_OF_{company}")
    monkeypatch.setenv("URL_OF_ACME", "postgresql://me:hush@acme/db")
    assert parse(Settings.load().database_url("ACME")).host == "acme"
