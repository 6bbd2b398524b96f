import pytest

from lpm_stream.control import progress, registry
from lpm_stream.errors import LpmStreamError
from lpm_stream.settings import Settings


def test_a_company_is_registered_once(store):
    assert registry.register(store, "A")
    assert not registry.register(store, "A")
    assert registry.register(store, "a")
    assert registry.registered(store) == ["A", "a"]


def test_registering_forgets_that_it_was_unknown(store):
    with store.write() as connection:
        progress.count_unknown(connection, "f", 1, {"A": 5, "B": 6})
    registry.register(store, "A")
    assert [unknown.company for unknown in progress.read_unknown(store, "f")] == ["B"]


@pytest.mark.parametrize("company", ["", "x" * 451, "a\0b", "\0", "\udc80"])
def test_what_cannot_be_an_id_is_refused(store, company):
    with pytest.raises(LpmStreamError, match="company id"):
        registry.register(store, company)
    assert registry.registered(store) == []


@pytest.mark.parametrize("company", ["x", "🚑" * 450, "'; DROP TABLE companies; --", "\n", "..", "%s", "\uff41"])
def test_any_other_text_is_an_id(store, company, tmp_path):
    registry.register(store, company)
    assert registry.registered(store) == [company]
    assert registry.database_urls(store, Settings.load(tmp_path)).keys() == {company}


def test_a_database_of_its_own(store, tmp_path):
    registry.register(store, "A", "sqlite:///elsewhere.db")
    registry.register(store, "B")
    settings = Settings.load(tmp_path)
    assert registry.database_urls(store, settings) == {
        "A": "sqlite:///elsewhere.db",
        "B": f"sqlite:///{tmp_path}/companies/B.db",
    }
