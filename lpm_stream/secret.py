"""Secrets are settings by reference: where the secret is, never the secret itself."""

import os
from pathlib import Path

from lpm_stream.errors import LpmStreamError

FORMS = "env:NAME, file:PATH or keyvault:VAULT/SECRET"
_KINDS = ("env:", "file:", "keyvault:")


def is_reference(text: str) -> bool:
    """Whether a text refers to a secret, well or not."""
    return text.startswith(_KINDS)


def resolve(reference: str, setting: str) -> str:
    """The secret that a reference names, without a line end behind it. It is looked up at each call.

    Args:
        reference: `env:NAME`, `file:PATH`, or `keyvault:VAULT/SECRET[/VERSION]` for a secret in Azure Key Vault.
        setting: the environment variable that holds the reference, for the error.

    Raises:
        LpmStreamError: if it is no reference, or leads to nothing. It does not repeat the reference's text, which
            may be a secret by mistake, unless it is one.
    """
    kind, _, place = reference.partition(":")
    if not (is_reference(reference) and place):
        raise LpmStreamError(f"{setting}: give a reference to the secret, {FORMS}")
    try:
        value = {"env": _of_environment, "file": _of_file, "keyvault": _of_key_vault}[kind](place)
    except LpmStreamError as error:
        raise LpmStreamError(f"{setting}: {error}") from None
    return value.rstrip("\r\n")


def resolved(text: str, setting: str) -> str:
    """What a reference refers to; any other text as it is.

    Raises:
        LpmStreamError: as `resolve` does.
    """
    return resolve(text, setting) if is_reference(text) else text


def _of_environment(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise LpmStreamError(f"environment variable {name} is not set; it has to hold the secret")
    return value


def _of_file(path: str) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise LpmStreamError(f"file {path} cannot be read ({reason}); it has to hold the secret") from None


def _of_key_vault(place: str) -> str:
    from lpm_stream import keyvault  # noqa: PLC0415 - most secrets are elsewhere

    return keyvault.read(place)
