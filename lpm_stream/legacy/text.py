"""The text of a legacy file, in pieces: inflated and decoded as it is read."""

import codecs
import zlib
from collections.abc import Iterator
from typing import IO

from lpm_stream.feed.legacy import LegacyFormat

UNDECODABLE = "\ufdd0"
"""Stands where bytes could not be decoded. Unicode keeps it out of all text: lines with it are bad."""

_BYTES_AT_ONCE = 1 << 20
_GZIP = 31  # zlib's word for a gzip header around the largest window
_MARKING = "lpm_stream_mark_undecodable"


class Text:
    """A file's text.

    Attributes:
        damage: once all is read, why what follows is lost, or None if the file was read to its end.
    """

    def __init__(self, file: IO[bytes], form: LegacyFormat) -> None:
        self._file = file
        self._form = form
        self.damage: str | None = None

    def pieces(self) -> Iterator[str]:
        """The text, up to its end or to where it is damaged. The pieces end anywhere."""
        decoder = codecs.getincrementaldecoder(self._form.encoding)(_MARKING)
        content = self._inflated() if self._form.compression == "gzip" else self._stored()
        for piece in content:
            yield decoder.decode(piece)
        yield decoder.decode(b"", final=True)

    def _stored(self) -> Iterator[bytes]:
        while piece := self._file.read(_BYTES_AT_ONCE):
            yield piece

    def _inflated(self) -> Iterator[bytes]:
        """The content of all gzip members. No piece is larger than what is read at once, however well it packs."""
        inflater = zlib.decompressobj(_GZIP)
        for stored in self._stored():
            piece = stored
            while piece:
                if inflater.eof:
                    inflater = zlib.decompressobj(_GZIP)
                try:
                    yield inflater.decompress(piece, _BYTES_AT_ONCE)
                except zlib.error:
                    self.damage = "the gzip data are damaged"
                    return
                piece = inflater.unused_data.lstrip(b"\0") if inflater.eof else inflater.unconsumed_tail
        while not inflater.eof:
            rest = inflater.decompress(b"", _BYTES_AT_ONCE)
            if not rest:
                self.damage = "the gzip data break off"
                return
            yield rest


def _mark(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return UNDECODABLE, error.end


codecs.register_error(_MARKING, _mark)
