"""Frames to message bodies and back: Avro object containers and NDJSON, told apart by content type.

Both can be read by Azure Stream Analytics and Spark without anything of ours. An Avro body is one block with
the codec `deflate`, the only compression every Avro reader must have. Polars writes Avro quickly but its own
deflate reaches 70,000 rows/s, so blocks are compressed here with ISA-L (over 1,000,000 rows/s).
"""

import io
import zlib
from collections.abc import Mapping
from typing import Literal

import polars as pl
from isal import igzip_lib, isal_zlib

from lpm_stream.errors import HubError
from lpm_stream.feed.schema import INSTANT

AVRO = "application/avro"
NDJSON = "application/x-ndjson"
CONTENT_TYPES: Mapping[Literal["avro", "ndjson"], str] = {"avro": AVRO, "ndjson": NDJSON}

_MAGIC = b"Obj\x01"
_SYNC_BYTES = 16
_ISAL_LEVEL = 2  # 0 to 3; 3 is slower and on these rows no smaller
_RAW_DEFLATE = -15  # Avro's deflate has no zlib header
_NAIVE = pl.Datetime("us")
_DECODING_ERRORS: tuple[type[Exception], ...] = (
    pl.exceptions.PolarsError,
    igzip_lib.IsalError,  # type: ignore[assignment] # its stub declares the class as an instance
    zlib.error,
    ValueError,
    LookupError,
)


def encode(rows: pl.DataFrame, content_type: str) -> bytes:
    """Encodes changes.

    Args:
        rows: contract columns and `_change_type`; instants are in UTC.
        content_type: `AVRO` or `NDJSON`.
    """
    naive = rows.with_columns(pl.col(INSTANT).dt.replace_time_zone(None))
    buffer = io.BytesIO()
    if content_type == AVRO:
        naive.write_avro(buffer, compression="uncompressed", name="change")
        return _deflated(buffer.getvalue())
    naive.with_columns(pl.col(_NAIVE).dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")).write_ndjson(buffer)
    return buffer.getvalue()


def decode(body: bytes, content_type: str, schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """Decodes changes, in the types they were encoded from.

    Args:
        body: an encoded frame.
        content_type: how it is encoded.
        schema: the types of the columns that are known; others keep the type that the format gives them.

    Raises:
        HubError: if the body is not what the content type says.
    """
    if content_type not in (AVRO, NDJSON):
        raise HubError(f"a message has content type {content_type!r}; known are {AVRO} and {NDJSON}")
    try:
        if content_type == AVRO:
            return _restored(pl.read_avro(io.BytesIO(_inflated(body))), schema)
        wire = {name: pl.String() if dtype == INSTANT else dtype for name, dtype in schema.items()}
        rows = pl.read_ndjson(io.BytesIO(body), schema_overrides=wire, infer_schema_length=None)
        return _restored(rows, schema)
    except _DECODING_ERRORS as error:
        raise HubError(f"a message body of {len(body)} bytes is not valid {content_type}: {error}") from error


def _restored(rows: pl.DataFrame, schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
    text = [name for name, dtype in rows.schema.items() if dtype == pl.String and schema.get(name) == INSTANT]
    rows = rows.with_columns(
        pl.col(name).str.to_datetime("%Y-%m-%dT%H:%M:%S%.fZ", time_unit="us") for name in text
    )
    rows = rows.with_columns(pl.col(_NAIVE).dt.replace_time_zone("UTC"))
    return rows.with_columns(pl.col(name).cast(dtype) for name, dtype in schema.items() if name in rows.columns)


def _deflated(container: bytes) -> bytes:
    """The container with its blocks deflated, one block for all rows."""
    schema, sync, blocks = _parsed(container)
    rows = sum(count for count, _ in blocks)
    data = isal_zlib.compress(b"".join(block for _, block in blocks), _ISAL_LEVEL, _RAW_DEFLATE)
    return _container(schema, b"deflate", sync, [(rows, data)])


def _inflated(container: bytes) -> bytes:
    """The container with its blocks uncompressed."""
    schema, sync, blocks = _parsed(container)
    plain = [(count, isal_zlib.decompress(block, _RAW_DEFLATE)) for count, block in blocks]
    return _container(schema, b"null", sync, plain)


def _parsed(container: bytes) -> tuple[bytes, bytes, list[tuple[int, bytes]]]:
    """Schema, sync marker, and the blocks as (rows, data). See the Avro specification, object container files."""
    if container[:4] != _MAGIC:
        raise ValueError("it does not start like an Avro container")
    meta, at = _metadata(container, len(_MAGIC))
    sync = container[at : at + _SYNC_BYTES]
    at += _SYNC_BYTES
    blocks = []
    while at < len(container):
        count, at = _long(container, at)
        size, at = _long(container, at)
        end = at + size
        if container[end : end + _SYNC_BYTES] != sync:
            raise ValueError("a block does not end in the sync marker")
        blocks.append((count, container[at:end]))
        at = end + _SYNC_BYTES
    return meta[b"avro.schema"], sync, blocks


def _metadata(container: bytes, at: int) -> tuple[dict[bytes, bytes], int]:
    meta: dict[bytes, bytes] = {}
    while True:
        entries, at = _long(container, at)
        if entries == 0:
            return meta, at
        if entries < 0:
            _, at = _long(container, at)
        for _ in range(abs(entries)):
            size, at = _long(container, at)
            key = container[at : at + size]
            size, at = _long(container, at + size)
            meta[key] = container[at : at + size]
            at += size


def _container(schema: bytes, codec: bytes, sync: bytes, blocks: list[tuple[int, bytes]]) -> bytes:
    parts = [_MAGIC, _varint(2)]
    for text in (b"avro.codec", codec, b"avro.schema", schema):
        parts += (_varint(len(text)), text)
    parts += (_varint(0), sync)
    for count, data in blocks:
        parts += (_varint(count), _varint(len(data)), data, sync)
    return b"".join(parts)


def _long(data: bytes, at: int) -> tuple[int, int]:
    """A zigzag varint, and where it ends."""
    shift = value = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the continuation bit
            return (value >> 1) ^ -(value & 1), at
        shift += 7


def _varint(value: int) -> bytes:
    value <<= 1
    out = bytearray()
    while value > 0x7F:  # noqa: PLR2004 - the continuation bit
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
