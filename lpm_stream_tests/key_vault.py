"""A Key Vault on loopback, over HTTPS and with its challenge, as the real client knows it.

https://learn.microsoft.com/rest/api/keyvault/secrets/get-secret/get-secret and, for the challenge,
https://learn.microsoft.com/azure/key-vault/general/authentication-requests-and-responses
"""

import ipaddress
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError
from cryptography import x509

from lpm_stream_tests.certificate import self_signed

HOST = "lpm-test.vault.azure.net"
TOKEN = "a-token-that-nobody-may-see"
SCOPE = "https://vault.azure.net/.default"


@dataclass
class Vault:
    """What the vault holds, and what it was asked.

    Attributes:
        secrets: `name` or `name/version` to value.
        answer: a status and an error code to answer everything with instead.
        asked: the paths asked for with the right token.
        challenged: number of requests that came without one.
    """

    secrets: dict[str, str] = field(default_factory=dict)
    answer: tuple[int, str] | None = None
    asked: list[str] = field(default_factory=list)
    challenged: int = 0


class Credential:
    """Signs in as somebody; without a token as nobody."""

    def __init__(self, token: str = TOKEN) -> None:
        self.token = token

    def get_token(self, *scopes: str, **_options: Any) -> AccessToken:
        assert scopes == (SCOPE,)
        if not self.token:
            raise ClientAuthenticationError("no credential in this chain\nprovided a token")
        return AccessToken(self.token, 4_102_444_800)


@contextmanager
def running(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Vault]:
    """A vault that answers as `lpm-test.vault.azure.net` to this process."""
    vault = Vault()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(vault))
    server.socket = _tls(directory).wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(directory / "certificate.pem"))
    _lead_to(server.server_port, monkeypatch)
    try:
        yield vault
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _lead_to(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the vault's name mean this machine; all others mean what they do."""
    ask = socket.getaddrinfo

    def answer(host: Any, *arguments: Any, **options: Any) -> Any:
        if host == HOST:
            return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port))]
        return ask(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", answer)


def _handler(vault: Vault) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            assert url.query.startswith("api-version=")
            if self.headers["Authorization"] != f"Bearer {TOKEN}":
                vault.challenged += 1
                challenge = (
                    'Bearer authorization="https://login.microsoftonline.com/a-tenant", '
                    'resource="https://vault.azure.net"'
                )
                self._send(401, _error("Unauthorized", "AKV10000: Request is missing a Bearer token"), challenge)
                return
            vault.asked.append(url.path)
            if vault.answer:
                status, code = vault.answer
                self._send(status, _error(code, "The user, group or application 'appid=1'\ndoes not have it."))
                return
            name = url.path.removeprefix("/secrets/").strip("/")
            if name not in vault.secrets:
                self._send(404, _error("SecretNotFound", f"A secret with (name/id) {name} was not found"))
                return
            identity = f"https://{HOST}/secrets/{name}"
            self._send(200, {"value": vault.secrets[name], "id": identity, "attributes": {"enabled": True}})

        def _send(self, status: int, content: Any, challenge: str = "") -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            if challenge:
                self.send_header("WWW-Authenticate", challenge)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
            pass

    return Handler


def _error(code: str, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message}}


def _tls(directory: Path) -> ssl.SSLContext:
    certificate, key = self_signed(HOST, [x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))])
    (directory / "certificate.pem").write_bytes(certificate)
    (directory / "key.pem").write_bytes(key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "certificate.pem", directory / "key.pem")
    return context
