"""Write-ahead logging for the program's own SQLite files."""

import sqlite3
import time

_PATIENCE_SECONDS = 10.0
_PAUSE_SECONDS = 0.02


def use_wal(connection: sqlite3.Connection) -> None:
    """Switches a file to write-ahead logging, synced at every commit.

    SQLite does not wait for others that open the same new file at this moment, whatever its busy timeout.

    Raises:
        sqlite3.OperationalError: if the file stays locked.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE_SECONDS)
    connection.execute("PRAGMA synchronous = FULL")
