"""Where rows are kept until they are compared: a scratch directory, gone afterwards, and DuckDB in it."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb

from lpm_stream.errors import LpmStreamError

_MEMORY = "256MB"
_MOST_THREADS = 4  # each needs buffers of its own out of that memory


@dataclass(frozen=True)
class Scratch:
    """A directory of our own, and an empty DuckDB database in it."""

    directory: Path
    db: duckdb.DuckDBPyConnection

    def row_count(self, table: str) -> int:
        """How many rows a table of the database has."""
        [(count,)] = self.db.execute(f"SELECT count(*) FROM {table}").fetchall()
        return int(count)


@contextmanager
def scratch_space(parent: Path) -> Iterator[Scratch]:
    """Makes the scratch directory, and removes it at the end, also on an error.

    Raises:
        LpmStreamError: if `parent` is not writable, or full.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        directory = tempfile.TemporaryDirectory(dir=parent, prefix="audit-")
    except OSError as error:
        raise unusable(parent, error) from error
    with directory as name:
        try:
            with _database(Path(name)) as db:
                yield Scratch(Path(name), db)
        except (duckdb.IOException, duckdb.OutOfMemoryException) as error:
            raise unusable(parent, error) from error


@contextmanager
def _database(directory: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": _MEMORY,
        "threads": min(os.cpu_count() or 1, _MOST_THREADS),
        "temp_directory": str(directory / "spill"),
        "preserve_insertion_order": False,
        "python_enable_replacements": False,  # a name in SQL is never a variable of ours
    }
    with duckdb.connect(directory / "audit.duckdb", config=settings) as db:
        db.execute("SET TimeZone = 'UTC'")  # in which instants are written as text
        yield db


def unusable(directory: Path, error: Exception) -> LpmStreamError:
    """The error for a scratch directory that cannot be written."""
    return LpmStreamError(
        f"scratch directory {directory} cannot be used ({one_line(error)}): it has to be writable, with room for "
        "about twice what the table takes uncompressed, long texts left out"
    )


def one_line(error: BaseException) -> str:
    """An error's text without its line breaks."""
    return " ".join(str(error).split())
