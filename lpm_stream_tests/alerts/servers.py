"""A real mail server and a real webhook receiver on loopback."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

USER, PASSWORD = "robot", "Hush4711/geheim"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Received:
    """What a server has taken, title and body, and whether it takes anything."""

    port: int
    messages: list[tuple[str, str]] = field(default_factory=list)
    refuses: bool = False

    @property
    def titles(self) -> list[str]:
        return [title for title, _ in self.messages]


@contextmanager
def mail_server(port: int) -> Iterator[Received]:
    """Takes mail from `USER` only."""
    received = Received(port)

    class Handler:
        async def handle_DATA(self, _server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
            if received.refuses or not session.authenticated:
                return f"554 not from you: {PASSWORD}"
            mail = message_from_bytes(envelope.content, policy=policy.default)
            body = mail.get_body(("plain", "html"))
            assert body is not None
            received.messages.append((mail["Subject"], body.get_content()))
            return "250 OK"

    def authenticate(_server: Any, _session: Any, _envelope: Any, _mechanism: str, login: Any) -> AuthResult:
        assert isinstance(login, LoginPassword)
        return AuthResult(success=login == LoginPassword(USER.encode(), PASSWORD.encode()), handled=False)

    controller = Controller(
        Handler(),
        hostname="127.0.0.1",
        port=port,
        authenticator=authenticate,
        auth_require_tls=False,
    )
    controller.start()
    try:
        yield received
    finally:
        controller.stop()


@contextmanager
def webhook(port: int) -> Iterator[Received]:
    """Takes what Apprise posts as JSON."""
    received = Received(port)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if not received.refuses:
                received.messages.append((content["title"], content["message"]))
            self.send_response(503 if received.refuses else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield received
        finally:
            server.shutdown()
            thread.join()
