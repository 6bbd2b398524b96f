"""The lines of a legacy file, in blocks of bounded size; the header and the trailer are told from the rest."""

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lpm_stream.feed.legacy import LegacyFormat
from lpm_stream.legacy.text import Text

LONGEST = 1 << 20
"""Characters of a line or record; longer ones are broken."""

_CHARACTERS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Block:
    """Some lines one after another, without their line feeds; `first` is the number of the first, from 1."""

    lines: list[str]
    first: int
    is_last: bool


class Lines:
    """The lines that hold records.

    Attributes:
        names: the file's columns in their order there.
        announced: once all is read, what the trailer says; None if there is none.
        problem: why the file as a whole is not what was declared; of a damaged one the rest is still read.
    """

    def __init__(self, form: LegacyFormat, text: Text) -> None:
        self._form = form
        self._text = text
        self.names = list(form.columns)
        self.announced: int | None = None
        self.problem: str | None = None

    def blocks(self) -> Iterator[Block]:
        """All lines between header and trailer. The last block may be empty."""
        header_due = self._form.header
        for block in self._raw_blocks():
            lines, first = block.lines, block.first
            if header_due and lines:
                self._take_header(lines[0].rstrip("\r").removeprefix("\ufeff"))
                if self.problem:
                    return
                header_due, lines, first = False, lines[1:], first + 1
            yield Block(lines, first, block.is_last)
        if header_due:
            self.problem = self.problem or "the header is missing: the file is empty"

    def _raw_blocks(self) -> Iterator[Block]:
        held: list[str] = []
        rest = ""
        first = 1
        for text in _gathered(self._text.pieces()):
            *lines, rest = (rest + text).split("\n")
            rest = rest[: LONGEST + 1]  # longer is broken, however long
            held += lines
            waiting = _waiting(held)
            if len(held) > waiting:
                done, held = held[: len(held) - waiting], held[len(held) - waiting :]
                yield Block(done, first, is_last=False)
                first += len(done)
        yield Block(self._without_trailer(held, rest), first, is_last=True)

    def _without_trailer(self, lines: list[str], rest: str) -> list[str]:
        """The last lines, without the trailer or what is left of a line where the file breaks off."""
        whole = [*lines, rest] if rest else lines
        while whole and not whole[-1].strip("\r"):
            whole.pop()
        if self._form.trailer is not None and whole:
            self.announced = self._announced(whole[-1].rstrip("\r"))
            if self.announced is not None:
                whole.pop()
        lacks_trailer = self._form.trailer is not None and self.announced is None
        if self._text.damage or lacks_trailer:
            self.problem = f"the file is cut short: {self._text.damage or 'it has no trailer'}"
            if rest and whole:
                whole.pop()
        return whole

    def _announced(self, line: str) -> int | None:
        before, _, after = (self._form.trailer or "").partition("{count}")
        found = re.fullmatch(rf"{re.escape(before)} *(\d{{1,18}}) *{re.escape(after)}", line)
        return int(found[1]) if found else None

    def _take_header(self, line: str) -> None:
        quote = self._form.quote
        try:
            [found] = csv.reader(
                [line], delimiter=self._form.delimiter, quotechar=quote, quoting=0 if quote else 3
            )
        except (csv.Error, ValueError):
            found = []
        if sorted(found) == sorted(self.names):
            self.names = found
            return
        lacking = [name for name in self.names if name not in found]
        reason = f"lacks {', '.join(lacking)}" if lacking else "names columns that are not declared, or one twice"
        self.problem = f"the header {reason}"


def _gathered(pieces: Iterable[str]) -> Iterator[str]:
    """Small pieces put together: each costs some time of its own."""
    held: list[str] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= _CHARACTERS_AT_ONCE:
            yield "".join(held)
            held, size = [], 0
    if held:
        yield "".join(held)


def _waiting(lines: list[str]) -> int:
    """How many lines at the end may be the trailer and blank lines behind it."""
    count = 0
    while count < len(lines):
        count += 1
        if lines[-count].strip("\r"):
            break
    return count
