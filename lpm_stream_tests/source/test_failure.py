"""What is said of a table that cannot be read: the cause, in one line."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from lpm_stream.audit.table import pin
from lpm_stream.components.source_table import look
from lpm_stream.errors import SourceError
from lpm_stream.source.delta import DeltaSource
from lpm_stream.source.failure import one_line, unreadable
from lpm_stream.source.snapshot import Snapshot
from lpm_stream.status import read_status
from lpm_stream_tests.example import SPEC

OPENERS = (
    lambda location: DeltaSource(SPEC, location),
    lambda location: Snapshot(SPEC, location),
    lambda location: look(SPEC, location),
    lambda location: pin(SPEC, location, None, None),
)


class Forbidding(BaseHTTPRequestHandler):
    """An object store that lets nobody in."""

    def do_GET(self) -> None:
        self.send_response(403, "Forbidden")
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(b"denied")

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A table in Azure's storage, as far as deltalake can tell."""
    server = HTTPServer(("127.0.0.1", 0), Forbidding)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AZURE_ALLOW_HTTP", "true")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "aHVzaA==")
    yield "abfss://lake@account.dfs.core.windows.net/gold/orders"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("opened", OPENERS)
def test_the_cause_is_told_and_what_to_check(store, opened):
    with pytest.raises(
        SourceError, match=r"^table abfss://lake@account\.dfs.* cannot be .* 403 Forbidden"
    ) as caught:
        opened(store)
    said = str(caught.value)
    assert said.endswith("denied; check LPM_STREAM_TABLES_URL and the credentials in the environment")
    assert said.isprintable()


@pytest.mark.parametrize("opened", OPENERS)
@pytest.mark.parametrize("made", ["", "_delta_log"])
def test_a_directory_without_a_log_is_no_table_to_anybody(tmp_path, opened, made):
    (tmp_path / "orders" / made).mkdir(parents=True)
    with pytest.raises(SourceError, match=r"no Delta table at .*orders: check LPM_STREAM_TABLES_URL"):
        opened(str(tmp_path / "orders"))


def test_status_says_the_same(stream):
    for path in Path(stream.table, "_delta_log").iterdir():
        path.unlink()
    [problem] = read_status(stream).problems
    assert problem == f"no Delta table at {stream.table}: check LPM_STREAM_TABLES_URL (or create the table)"


def test_what_differs_from_try_to_try_and_what_may_be_secret_is_left_out():
    arrow = "\n   \x1b[31m↳\x1b[0m "
    error = OSError(
        f"Generic error{arrow}GET https://host/path?sig=hush in 4.8ms, after 10 retries{arrow}refused.\n"
    )
    assert one_line(error) == "Generic error: GET https://host/path, after 10 retries: refused"


def test_backtraces_are_left_out_and_long_texts_keep_both_ends():
    assert str(unreadable("/t", OSError("bad\n   0: <unknown>\n"))) == "table /t cannot be read: bad"
    said = one_line(OSError(f"first {'x' * 1_000}\n ↳ last"))
    assert said.startswith("first ")
    assert said.endswith(": last")
    assert len(said) < 410
