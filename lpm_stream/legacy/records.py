"""Records out of the lines of a legacy file: each with the number of its line, the broken ones told apart.

A record is a line, or several where a quoted value has line ends in it. A quote that is never closed costs only
its line: lines that together are no record of the right number of values are not put together.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl
import pyarrow as pa
from pyarrow import csv

from lpm_stream.feed.legacy import LegacyFormat
from lpm_stream.legacy.lines import LONGEST, Block, Lines
from lpm_stream.legacy.text import UNDECODABLE

LINE = "_line"  # the column with the number of a record's first line

_TEXT = "_text"
_SCHEMA = {_TEXT: pl.String(), LINE: pl.Int64()}
_MOST_EXAMPLES = 10


@dataclass(frozen=True)
class BrokenLine:
    """A line that is not compared, and why. The reason quotes no values."""

    line: int
    reason: str


class Broken:
    """The broken lines: how many, and the first."""

    def __init__(self) -> None:
        self.count = 0
        self.examples: list[BrokenLine] = []

    def add(self, lines: pl.Series, reason: str) -> None:
        """Notes the lines of these numbers."""
        self.count += len(lines)
        few = [BrokenLine(line, reason) for line in lines.sort().head(_MOST_EXAMPLES)]
        self.examples = sorted([*self.examples, *few], key=lambda one: one.line)[:_MOST_EXAMPLES]


class Records:
    """The records of one file.

    Attributes:
        broken: the lines that are none.
        count: how many records have been read, the broken ones among them.
    """

    def __init__(self, form: LegacyFormat, lines: Lines) -> None:
        self._form = form
        self._lines = lines
        self._open: list[tuple[str, int]] = []  # lines from one on that may begin a record of several
        self._well_quoted = ""
        if form.quote is not None:
            self._well_quoted = _quoting(form.quote, form.delimiter, "*")
            self._whole = re.compile(_quoting(form.quote, form.delimiter, f"{{{len(form.columns) - 1}}}"))
        self.broken = Broken()
        self.count = 0

    def frames(self) -> Iterator[pl.DataFrame]:
        """The used columns of the file as text, and `_line`."""
        for block in self._lines.blocks():
            table = self._joined(block)
            self.count += table.height
            text = pl.col(_TEXT)
            table = self._without(table, text.str.len_chars() > LONGEST, f"is longer than {LONGEST:,} characters")
            undecodable = text.str.contains(UNDECODABLE, literal=True)
            table = self._without(table, undecodable, f"is not valid {self._form.encoding}")
            if self._form.quote is not None:
                quoted = text.str.contains(self._form.quote, literal=True)
                bad = quoted & ~text.str.contains(self._well_quoted)
                table = self._without(table, bad, "has a quote that is not closed, or in the wrong place")
            if table.height:
                yield self._parsed(table)

    def _without(self, table: pl.DataFrame, bad: pl.Expr, reason: str) -> pl.DataFrame:
        marked = table.select(bad).to_series()
        if not marked.any():
            return table
        self.broken.add(table.filter(marked)[LINE], reason)
        return table.filter(~marked)

    def _joined(self, block: Block) -> pl.DataFrame:
        """One row a record; lines of a record that may go on in the next block wait for it."""
        texts = [text for text, _ in self._open] + block.lines
        first = self._open[0][1] if self._open else block.first
        numbers = range(first, first + len(texts))
        self._open = []
        table = pl.DataFrame({_TEXT: texts, LINE: numbers}, schema=_SCHEMA)
        quote = self._form.quote
        if quote is not None:
            odd = (table[_TEXT].str.count_matches(re.escape(quote)) % 2 == 1).arg_true().to_list()
            if odd:
                table = self._paired(texts, numbers, odd, is_last=block.is_last)
        return table.filter(pl.col(_TEXT).str.strip_chars_end("\r") != "")

    def _paired(self, texts: list[str], numbers: range, odd: list[int], *, is_last: bool) -> pl.DataFrame:
        """Lines between two with an odd number of quotes put together, where that makes a record."""
        records: list[tuple[str, int]] = []
        done = place = 0
        while place < len(odd):
            begin = odd[place]
            records += zip(texts[done:begin], numbers[done:begin], strict=True)
            done = begin
            if place + 1 < len(odd):
                end = odd[place + 1] + 1
                text = _within_limit(texts, begin, end)
                if text is not None and self._whole.fullmatch(text):
                    records.append((text, numbers[begin]))
                    done = end
                    place += 1
            elif not is_last and _within_limit(texts, begin, len(texts)) is not None:
                self._open = list(zip(texts[begin:], numbers[begin:], strict=True))
                done = len(texts)
            place += 1
        records += zip(texts[done:], numbers[done:], strict=True)
        return pl.DataFrame(records, schema=_SCHEMA, orient="row")

    def _parsed(self, table: pl.DataFrame) -> pl.DataFrame:
        wrong: list[csv.InvalidRow] = []

        def note(row: csv.InvalidRow) -> str:
            wrong.append(row)
            return "skip"

        names = self._lines.names
        text = pa.py_buffer("\n".join(table[_TEXT].to_list()).encode())
        parsed = csv.read_csv(
            pa.BufferReader(text),
            csv.ReadOptions(use_threads=False, block_size=text.size + 1, column_names=names),
            csv.ParseOptions(
                delimiter=self._form.delimiter,
                quote_char=self._form.quote or False,
                newlines_in_values=True,
                ignore_empty_lines=False,
                invalid_row_handler=note,
            ),
            csv.ConvertOptions(
                check_utf8=False,
                include_columns=list(self._form.used),
                column_types=dict.fromkeys(names, pa.string()),
                null_values=[self._form.null_text],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )
        numbers = table[LINE]
        for row in wrong:
            reason = f"has {row.actual_columns} values instead of {row.expected_columns}"
            self.broken.add(numbers[row.number - 1 : row.number], reason)
        if wrong:
            numbers = numbers.filter(~pl.Series(range(1, len(numbers) + 1)).is_in([row.number for row in wrong]))
        return pl.DataFrame(parsed).with_columns(numbers)


def _within_limit(texts: list[str], begin: int, end: int) -> str | None:
    """These lines as one text, or None if it is too long for a record."""
    if end - begin > LONGEST or sum(map(len, texts[begin:end])) + end - begin > LONGEST:
        return None
    return "\n".join(texts[begin:end])


def _quoting(quote: str, delimiter: str, times: str) -> str:
    """A regular expression for well quoted values, the first followed by `times` more."""
    quote, delimiter = re.escape(quote), re.escape(delimiter)
    value = f"(?:{quote}(?:[^{quote}]|{quote}{quote})*{quote}|[^{quote}{delimiter}\n]*)"
    return rf"^{value}(?:{delimiter}{value}){times}\r?$"
