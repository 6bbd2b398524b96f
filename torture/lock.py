"""Holds the write locks of SQLite files until its standard input ends: `python -m torture.lock PATH...`."""

import sqlite3
import sys


def main() -> None:
    """Locks the files named on the command line, says so, and waits."""
    connections = [sqlite3.connect(path, timeout=30, isolation_level=None) for path in sys.argv[1:]]
    for connection in connections:
        connection.execute("BEGIN IMMEDIATE")
    print("locked", flush=True)
    sys.stdin.read()
    for connection in connections:
        connection.execute("ROLLBACK")
        connection.close()


if __name__ == "__main__":
    main()
