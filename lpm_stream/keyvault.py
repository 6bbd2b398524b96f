"""Secrets in Azure Key Vault, read as whom `azure-identity` finds: a managed identity, or who is signed in.

https://learn.microsoft.com/azure/key-vault/general/about-keys-secrets-certificates
"""

import re
import threading
import time
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from lpm_stream.errors import LpmStreamError

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

_PLACE = re.compile(
    r"(?P<vault>[A-Za-z0-9][A-Za-z0-9.-]*)/(?P<name>[A-Za-z0-9-]{1,127})(?:/(?P<version>[A-Za-z0-9]+))?"
)
_PUBLIC_CLOUD = "vault.azure.net"
_KEPT_SECONDS = 60.0  # a thousand companies share a password, and vaults count requests; a new one is soon in use
_CONNECT_SECONDS, _READ_SECONDS = 5, 10
_LONGEST_REASON = 300  # characters
_MISSING = "secrets in Key Vault need its client: pip install 'lpm-stream[keyvault]'"


@dataclass(frozen=True)
class _Secret:
    """Where a secret is; the newest version if it names none."""

    host: str
    name: str
    version: str | None

    def __str__(self) -> str:
        version = f", version {self.version}" if self.version else ""
        return f"secret {self.name}{version} of Key Vault {self.host}"


_kept: dict[_Secret, tuple[float, str]] = {}
_lock = threading.Lock()


def read(place: str) -> str:
    """A secret's value, at most a minute old.

    Args:
        place: `VAULT/SECRET`, the newest version, or `VAULT/SECRET/VERSION`. A vault of another cloud than the
            public one by its host, such as `NAME.vault.azure.cn`.

    Raises:
        LpmStreamError: if it cannot be read.
    """
    secret = _parse(place)
    with _lock:
        at, value = _kept.get(secret, (float("-inf"), ""))
    if time.monotonic() - at < _KEPT_SECONDS:
        return value
    value = _ask(secret)
    with _lock:
        _kept[secret] = (time.monotonic(), value)
    return value


def forget() -> None:
    """Has every secret looked up anew."""
    with _lock:
        _kept.clear()


def _parse(place: str) -> _Secret:
    match = _PLACE.fullmatch(place)
    if match is None:
        raise LpmStreamError("a secret in Key Vault is keyvault:VAULT/SECRET or keyvault:VAULT/SECRET/VERSION")
    vault = match["vault"]
    return _Secret(vault if "." in vault else f"{vault}.{_PUBLIC_CLOUD}", match["name"], match["version"])


def _ask(secret: _Secret) -> str:
    try:
        from azure.core import exceptions  # noqa: PLC0415 - slow, and only where it is needed is it installed
        from azure.keyvault.secrets import SecretClient  # noqa: PLC0415

        credential = _credential()
    except ImportError as error:
        raise LpmStreamError(_MISSING) from error
    client = SecretClient(
        f"https://{secret.host}",
        credential,
        retry_total=1,
        retry_backoff_factor=0.2,
        connection_timeout=_CONNECT_SECONDS,
        read_timeout=_READ_SECONDS,
    )
    try:
        with client:
            value = client.get_secret(secret.name, secret.version).value
    except exceptions.ResourceNotFoundError:
        raise LpmStreamError(f"{secret} does not exist; create it or correct the reference") from None
    except exceptions.ClientAuthenticationError as error:
        raise LpmStreamError(
            f"{secret}: nobody to sign in as, or not let in ({_reason(error)}); give this machine a managed "
            f"identity, or set AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_CLIENT_SECRET"
        ) from None
    except exceptions.HttpResponseError as error:
        advice = "; give this identity the role Key Vault Secrets User" if error.status_code == 403 else ""  # noqa: PLR2004 - Forbidden
        raise LpmStreamError(f"{secret} cannot be read ({_reason(error)}){advice}") from None
    except (exceptions.AzureError, ValueError) as error:  # ValueError: what answers is no Key Vault
        raise LpmStreamError(f"{secret} cannot be asked for ({_reason(error)}); check host and network") from None
    if not value:
        raise LpmStreamError(f"{secret} is empty")
    return value


@cache
def _credential() -> "TokenCredential":
    from azure.identity import DefaultAzureCredential  # noqa: PLC0415 - as above

    credential: TokenCredential = DefaultAzureCredential()
    return credential


def _reason(error: Exception) -> str:
    """What went wrong as one line: the service's messages are about who asked and for what, never about values."""
    return " ".join(str(getattr(error, "message", None) or error).split())[:_LONGEST_REASON]
