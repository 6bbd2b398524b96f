import re
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import assume, example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from lpm_stream.settings import Settings, safe_file_name

IDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
SIMILAR = st.text("aA/.~_ -é%", min_size=1, max_size=4)


@given(IDS | SIMILAR)
@example("..")
@example("/")
@example("x" * 450)
@example("CON")
@example("{company}")
def test_a_file_name_is_harmless(company):
    name = safe_file_name(company)
    assert re.fullmatch(r"[A-Za-z0-9_~-]{1,57}", name)
    assert safe_file_name(company) == name


@given(IDS | SIMILAR, IDS | SIMILAR)
@example("ACME", "acme")
@example("a", "a~ca978112ca1bbdca")
@example("a b", "a_b")
@example("x" * 57, "x" * 58)
@example("X" * 57, "X" * 58)
@example("\u0130", "i\u0307")
@example("é", "e\u0301")
def test_two_companies_never_share_a_file_name(one, other):
    """Not even on a file system that ignores case."""
    assume(one != other)
    assert safe_file_name(one).casefold() != safe_file_name(other).casefold()


def test_everything_lies_below_home(tmp_path):
    settings = Settings.load(tmp_path)
    assert settings.table_location("t") == f"{tmp_path}/tables/t"
    assert settings.hub_url == f"local:{tmp_path}/hub"
    for url in (settings.control_url, settings.database_url("../x")):
        database = sa.make_url(url).database
        assert database is not None
        assert Path(database).is_relative_to(tmp_path)
        assert ".." not in Path(database).parts


def test_the_environment_fills_the_settings_and_dir_takes_precedence(tmp_path, monkeypatch):
    monkeypatch.setenv("LPM_STREAM_HOME", str(tmp_path / "environment"))
    monkeypatch.setenv("LPM_STREAM_SLOTS", "7")
    monkeypatch.setenv("LPM_STREAM_TABLES_URL", "abfss://lake@store.dfs.core.windows.net/gold/")
    monkeypatch.setenv("LPM_STREAM_DATABASE_TEMPLATE", "sqlite:////data/{company}/lpm.db")
    settings = Settings.load()
    assert settings.home == tmp_path / "environment"
    assert settings.slots == 7
    assert settings.table_location("t") == "abfss://lake@store.dfs.core.windows.net/gold/t"
    assert settings.database_url("ACME") == "sqlite:////data/ACME/lpm.db"
    assert settings.hub_url == f"local:{tmp_path}/environment/hub"
    assert Settings.load(tmp_path / "option").home == tmp_path / "option"


def test_home_is_absolute_and_may_be_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LPM_STREAM_HOME", raising=False)
    assert Settings.load().home == tmp_path / ".lpm_stream"
    assert Settings.load(Path("~/elsewhere")).home == tmp_path / "elsewhere"


@pytest.mark.parametrize(
    ("name", "value"),
    [("SLOTS", "0"), ("SLOTS", "many"), ("HUB_PARTITIONS", "33"), ("POLL_SECONDS", "0"), ("TICK_SECONDS", "55")],
)
def test_a_wrong_value_names_its_setting(monkeypatch, name, value):
    monkeypatch.setenv(f"LPM_STREAM_{name}", value)
    with pytest.raises(ValidationError, match=name.lower()):
        Settings.load()
