"""Secrets are settings by reference: where the secret is, never the secret itself."""

import os
from pathlib import Path

from lpm_stream.errors import LpmStreamError


def resolve(reference: str, setting: str) -> str:
    """The secret that a reference names, without a line end behind it.

    Args:
        reference: `env:NAME` or `file:PATH`.
        setting: the environment variable that holds the reference, for the error.

    Raises:
        LpmStreamError: if it is no reference, or leads to nothing. It does not repeat the reference's text, which
            may be a secret by mistake, unless it is one.
    """
    kind, _, place = reference.partition(":")
    if kind == "env" and place:
        value = os.environ.get(place)
        if not value:
            raise LpmStreamError(f"{setting}: environment variable {place} is not set; it has to hold the secret")
    elif kind == "file" and place:
        try:
            value = Path(place).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not text"
            raise LpmStreamError(
                f"{setting}: file {place} cannot be read ({reason}); it has to hold the secret"
            ) from None
    else:
        raise LpmStreamError(f"{setting}: give a reference to the secret, env:NAME or file:PATH")
    return value.rstrip("\r\n")
