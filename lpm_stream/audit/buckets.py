"""Rows in files, divided by the hash of their key, so that each file can be worked on in memory."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import ipc

from lpm_stream.audit.scratch import unusable

FAN_OUT = 16
HASH = "_hash"  # the column that holds the hash

_BITS = 4  # of the hash that tell buckets apart; the next level takes the next ones
_DEEPEST = 8  # what is still together after 36 bits is of one key
_ROWS_AT_ONCE = 16_384  # divided among the buckets; with pieces of some ten rows everything is ten times slower
_OPTIONS = ipc.IpcWriteOptions(compression="lz4")


class Buckets:
    """A set of `FAN_OUT` buckets. Write within its `with` block, read after it."""

    def __init__(self, directory: Path, level: int = 0) -> None:
        self._directory = directory
        self._level = level
        self._rows = [0] * FAN_OUT
        self._sizes = [0] * FAN_OUT
        self._writers: dict[int, ipc.RecordBatchStreamWriter] = {}
        self._open = ExitStack()
        try:
            directory.mkdir(exist_ok=True)
        except OSError as error:
            raise unusable(directory, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._open.close()
        except OSError as failure:
            raise unusable(self._directory, failure) from failure

    def add(self, batches: Iterable[pa.RecordBatch]) -> int:
        """Adds rows, each with its hash in the column `_hash`; the schema is always the same.

        Returns:
            How many rows were added.

        Raises:
            LpmStreamError: if the scratch directory is full.
        """
        rows = 0
        for batch in _gathered(batches):
            rows += batch.num_rows
            try:
                self._write(batch)
            except OSError as error:
                raise unusable(self._directory, error) from error
        return rows

    def size(self, number: int) -> int:
        """How many bytes a bucket takes in memory."""
        return self._sizes[number]

    def rows(self, number: int) -> Iterator[pa.RecordBatch]:
        """The rows of a bucket.

        Raises:
            LpmStreamError: if not all of them can be read back.
        """
        found = 0
        try:
            if number in self._writers:
                with pa.OSFile(str(self._path(number))) as file, ipc.open_stream(file) as reader:
                    for batch in reader:
                        found += batch.num_rows
                        yield batch
        except (OSError, pa.ArrowInvalid) as error:
            raise unusable(self._directory, error) from error
        if found != self._rows[number]:
            raise unusable(self._directory, OSError(f"{found} of {self._rows[number]} rows read back"))

    @property
    def can_split(self) -> bool:
        """Whether there are bits of the hash left that could tell rows of a bucket apart."""
        return self._level < _DEEPEST

    def split(self, number: int) -> "Buckets":
        """Divides one bucket into a new set, and removes it."""
        parts = Buckets(self._directory / f"{number}.parts", self._level + 1)
        with parts:
            parts.add(self.rows(number))
        self.remove(number)
        return parts

    def remove(self, number: int) -> None:
        """Frees the space that a bucket takes."""
        self._path(number).unlink(missing_ok=True)

    def _write(self, batch: pa.RecordBatch) -> None:
        numbers = pc.bit_wise_and(pc.shift_right(batch.column(HASH), self._level * _BITS), FAN_OUT - 1)
        order = pc.array_sort_indices(numbers)
        ordered = batch.take(order)
        start = 0
        for run in pc.value_counts(numbers.take(order)).to_pylist():
            part = ordered.slice(start, run["counts"])
            start += run["counts"]
            number = run["values"]
            self._writer(number, batch.schema).write_batch(part)
            self._rows[number] += part.num_rows
            self._sizes[number] += part.nbytes

    def _writer(self, number: int, schema: pa.Schema) -> ipc.RecordBatchStreamWriter:
        if number not in self._writers:
            file = self._open.enter_context(pa.OSFile(str(self._path(number)), "wb"))
            self._writers[number] = self._open.enter_context(ipc.new_stream(file, schema, options=_OPTIONS))
        return self._writers[number]

    def _path(self, number: int) -> Path:
        return self._directory / f"{number}.arrow"


def _gathered(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Small batches put together."""
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        held.append(batch)
        rows += batch.num_rows
        if rows >= _ROWS_AT_ONCE:
            yield from pa.Table.from_batches(held).combine_chunks().to_batches()
            held, rows = [], 0
    if held:
        yield from pa.Table.from_batches(held).combine_chunks().to_batches()
