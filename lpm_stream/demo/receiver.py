"""The receiver of a demo's alerts: a real webhook on this machine, which Apprise posts JSON to."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from lpm_stream.settings import Settings

CHANNEL = "env:LPM_STREAM_DEMO_ALERTS"


@dataclass(frozen=True)
class Receiver:
    """What listens on a port of localhost, and the titles of what it has received."""

    port: int
    titles: list[str] = field(default_factory=list)

    def environment(self, settings: Settings) -> Mapping[str, str]:
        """The environment in which alerts come here, beside where else they are to go."""
        return {
            CHANNEL.removeprefix("env:"): f"json://127.0.0.1:{self.port}/",
            "LPM_STREAM_ALERT_URLS": f"{settings.alert_urls} {CHANNEL}".strip(),
        }


@contextmanager
def receiver() -> Iterator[Receiver]:
    """Listens until the end of the block, on a port that is free."""
    titles: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            titles.append(str(content["title"]))
            self.send_response(HTTPStatus.NO_CONTENT)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name that it has
            """Keeps what is received off the demo's screen."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, name="alerts", args=(0.1,))
        thread.start()
        try:
            yield Receiver(server.server_port, titles)
        finally:
            server.shutdown()
            thread.join()
