"""Secrets by reference, from the environment, a file and a Key Vault that the real client asks."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from azure.keyvault.secrets._shared.http_challenge_cache import clear

from lpm_stream import keyvault
from lpm_stream.errors import LpmStreamError
from lpm_stream.secret import is_reference, resolve, resolved
from lpm_stream_tests import key_vault
from lpm_stream_tests.key_vault import Credential, Vault

PASSWORD = "hush-hush"


@pytest.fixture
def credential(monkeypatch: pytest.MonkeyPatch) -> Iterator[Credential]:
    credential = Credential()
    monkeypatch.setattr(keyvault, "_credential", lambda: credential)
    keyvault.forget()
    clear()
    yield credential
    keyvault.forget()
    clear()


@pytest.fixture
def vault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, credential: Credential) -> Iterator[Vault]:
    with key_vault.running(tmp_path, monkeypatch) as running:
        running.secrets["acme"] = PASSWORD
        yield running


def test_a_secret_is_in_the_environment_or_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv("PLACE", f"{PASSWORD}\r\n")
    (tmp_path / "file").write_text(f"{PASSWORD}\n")
    assert resolve("env:PLACE", "X") == resolve(f"file:{tmp_path}/file", "X") == PASSWORD
    assert resolved("env:PLACE", "X") == PASSWORD
    assert resolved("postgresql://host/db", "X") == "postgresql://host/db"


@pytest.mark.parametrize("reference", ["", "hush", "env:", "keyvault:", "vault:hush/hush", "ENV:hush"])
def test_what_is_no_reference_is_refused_and_not_repeated(reference):
    with pytest.raises(LpmStreamError, match=r"^X: give a reference to the secret, env:NAME, file") as caught:
        resolve(reference, "X")
    assert "hush" not in str(caught.value)


def test_references_are_known():
    assert all(map(is_reference, ["env:X", "file:/x", "keyvault:v/s"]))
    assert not any(map(is_reference, ["", "x", "postgresql://x", "eventhubs:env:X", "local:/x"]))


def test_a_secret_in_a_key_vault_is_read_after_its_challenge(vault):
    vault.secrets["acme/1f"] = "an older one"
    assert resolve("keyvault:lpm-test/acme", "X") == PASSWORD
    assert resolve(f"keyvault:{key_vault.HOST}/acme/1f", "X") == "an older one"
    assert [path.strip("/") for path in vault.asked] == ["secrets/acme", "secrets/acme/1f"]
    assert vault.challenged == 1


def test_it_is_asked_for_again_after_a_while(vault, monkeypatch):
    for _ in range(3):
        assert resolve("keyvault:lpm-test/acme", "X") == PASSWORD
    assert len(vault.asked) == 1
    vault.secrets["acme"] = "the new one"
    monkeypatch.setattr(keyvault, "_KEPT_SECONDS", 0)
    assert resolve("keyvault:lpm-test/acme", "X") == "the new one"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            (403, "Forbidden"),
            r"^X: secret acme of Key Vault lpm-test.vault.azure.net cannot be read .*appid=1.*role",
        ),
        ((404, "SecretNotFound"), "secret acme of Key Vault .* does not exist; create it"),
        ((429, "Throttled"), r"cannot be read \(.*Throttled"),
        ((400, "BadParameter"), r"cannot be read \(.*BadParameter"),
    ],
)
def test_a_vault_that_does_not_hand_it_out_is_one_clear_line(vault, answer, message):
    vault.answer = answer
    with pytest.raises(LpmStreamError, match=message) as caught:
        resolve("keyvault:lpm-test/acme", "X")
    assert "\n" not in str(caught.value)
    vault.answer = None
    assert resolve("keyvault:lpm-test/acme", "X") == PASSWORD


@pytest.mark.parametrize("token", ["", "one that is refused"])
def test_without_an_identity_that_is_let_in_it_is_said_so(vault, credential, token):
    credential.token = token
    with pytest.raises(LpmStreamError, match=r"X: secret acme .*nobody to sign in as.*managed identity") as caught:
        resolve("keyvault:lpm-test/acme", "X")
    assert "\n" not in str(caught.value)
    assert not token or token not in str(caught.value)


def test_a_vault_that_is_not_there_is_one_clear_line(vault, credential, monkeypatch):
    key_vault._lead_to(1, monkeypatch)
    with pytest.raises(LpmStreamError, match=r"cannot be asked for .*refused.*; check host and network") as caught:
        resolve("keyvault:lpm-test/acme", "X")
    assert "\n" not in str(caught.value)


def test_a_vault_whose_certificate_nobody_vouches_for_is_not_asked(vault, monkeypatch):
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    with pytest.raises(LpmStreamError, match=r"cannot be asked for \(.*certificate"):
        resolve("keyvault:lpm-test/acme", "X")
    assert vault.asked == []


@pytest.mark.parametrize("place", ["acme", "v/", "/s", "v/s/1/2", "v/s?x", "v/a_b", "v:1/s", "../x/s", "v/s/"])
def test_a_place_that_is_none_is_refused(credential, place):
    with pytest.raises(LpmStreamError, match=r"X: a secret in Key Vault is keyvault:VAULT/SECRET"):
        resolve(f"keyvault:{place}", "X")


def test_an_empty_secret_is_an_error(vault):
    vault.secrets["acme"] = ""
    with pytest.raises(LpmStreamError, match="is empty"):
        resolve("keyvault:lpm-test/acme", "X")


def test_without_the_client_it_is_said_what_to_install(credential, monkeypatch):
    monkeypatch.setitem(sys.modules, "azure.keyvault.secrets", None)
    with pytest.raises(LpmStreamError, match=r"pip install 'lpm-stream\[keyvault\]'"):
        resolve("keyvault:lpm-test/acme", "X")


def test_neither_secret_nor_token_is_logged(vault, caplog):
    caplog.set_level(logging.DEBUG)
    assert resolve("keyvault:lpm-test/acme", "X") == PASSWORD
    assert "secrets/acme" in caplog.text
    assert PASSWORD not in caplog.text
    assert key_vault.TOKEN not in caplog.text
