"""Frames to message bodies and back: Avro object containers and NDJSON, told apart by content type.

Both can be read by Azure Stream Analytics and Spark without anything of ours. An Avro body is one block with
the codec `deflate`, the only compression every Avro reader must have. Polars writes Avro quickly but its own
deflate reaches 70,000 rows/s, so blocks are compressed here with ISA-L (over 1,000,000 rows/s). Decimals are
Avro's own logical type, and text in NDJSON, where a number would be read as a float.
"""

import hashlib
import io
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import polars as pl
import polars.selectors as cs
import pyarrow as pa
from isal import igzip_lib, isal_zlib

from lpm_stream.errors import HubError
from lpm_stream.feed.schema import INSTANT, holds, is_widened

AVRO = "application/avro"
NDJSON = "application/x-ndjson"
CONTENT_TYPES: Mapping[Literal["avro", "ndjson"], str] = {"avro": AVRO, "ndjson": NDJSON}

_MAGIC = b"Obj\x01"
_OUR_SYNC = hashlib.md5(b"lpm_stream", usedforsecurity=False).digest()  # 16 bytes that end every block
_ISAL_LEVEL = 2  # 0 to 3; 3 is slower and on these rows no smaller
_RAW_DEFLATE = -15  # Avro's deflate has no zlib header
_NAIVE = pl.Datetime("us")
_DECODING_ERRORS: tuple[type[BaseException], ...] = (
    pl.exceptions.PolarsError,
    pl.exceptions.PanicException,  # how polars meets Avro data that end too early
    igzip_lib.IsalError,  # type: ignore[assignment] # its stub declares the class as an instance
    zlib.error,
    OSError,
    ValueError,
    LookupError,
)


def to_wire(rows: pl.DataFrame, content_type: str) -> pl.DataFrame:
    """Changes in the types of the wire, ready for `encode`, alone or cut into parts.

    Args:
        rows: contract columns and `_change_type`; instants are in UTC.
        content_type: `AVRO` or `NDJSON`.
    """
    if content_type == AVRO:  # polars writes no instants; `encode` declares them as what they are
        return rows.with_columns(pl.col(INSTANT).dt.replace_time_zone(None))
    return rows.with_columns(pl.col(INSTANT).dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ"), cs.decimal().cast(pl.String))


def encode(rows: pl.DataFrame, content_type: str) -> bytes:
    """Encodes changes that `to_wire` has prepared."""
    buffer = io.BytesIO()
    if content_type == AVRO:
        decimals = {name: dtype for name, dtype in rows.schema.items() if isinstance(dtype, pl.Decimal)}
        plain = rows.with_columns(_big_endian(rows[name]) for name in decimals) if decimals else rows
        # Polars panics where columns lie in memory in different pieces.
        plain.rechunk().write_avro(buffer, compression="uncompressed", name="change")
        return _deflated(buffer.getvalue(), decimals)
    rows.write_ndjson(buffer)
    return buffer.getvalue()


def decode(bodies: Sequence[bytes], content_type: str, schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """Decodes changes, in the types they had before `to_wire`.

    Args:
        bodies: encoded frames; their rows are returned one behind the other.
        content_type: how they are encoded.
        schema: the types of the columns that are known; others keep the type that the format gives them.

    Raises:
        HubError: if a body is not what the content type says.
    """
    if content_type not in (AVRO, NDJSON):
        raise HubError(f"a message has content type {content_type!r}; known are {AVRO} and {NDJSON}")
    try:
        frames = _from_avro(bodies) if content_type == AVRO else _from_ndjson(bodies, schema)
        return _restored(pl.concat(frames, how="diagonal_relaxed"), schema)
    except _DECODING_ERRORS as error:
        # What polars says may quote values.
        raise HubError(f"a message body is not valid {content_type} ({type(error).__name__})") from error


def _from_avro(containers: Sequence[bytes]) -> list[pl.DataFrame]:
    """Frames of all containers; neighbours with the same schema are read at once, which saves most of the time."""
    frames = []
    for schema, run in groupby(map(_parsed, containers), key=lambda parsed: parsed.schema):
        blocks = [(count, _inflated(block, count)) for parsed in run for count, block in parsed.blocks]
        frames.append(pl.read_avro(io.BytesIO(_container(schema, b"null", _OUR_SYNC, blocks))))
    return frames


def _from_ndjson(bodies: Sequence[bytes], schema: Mapping[str, pl.DataType]) -> list[pl.DataFrame]:
    wire = {
        name: pl.String() if dtype == INSTANT or isinstance(dtype, pl.Decimal) else dtype
        for name, dtype in schema.items()
    }
    return [pl.read_ndjson(io.BytesIO(body), schema_overrides=wire, infer_schema_length=None) for body in bodies]


def _restored(rows: pl.DataFrame, schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
    for name, wanted in schema.items():
        if isinstance(wanted, pl.Decimal) and name in rows.columns:
            _require_exact(rows[name], wanted)
    others = ((name, found) for name, found in rows.schema.items() if found != schema.get(name))
    return rows.with_columns(_restoring(name, found, schema.get(name)) for name, found in others)


def _require_exact(found: pl.Series, wanted: pl.Decimal) -> None:
    """Polars would round what has more digits behind the point."""
    if found.dtype == pl.String():
        exact = bool(found.str.contains(rf"^-?[0-9]+(\.[0-9]{{1,{max(wanted.scale, 1)}}})?$").all())
        exact = exact and (wanted.scale > 0 or not found.str.contains(".", literal=True).any())
    else:
        exact = found.dtype == pl.Null() or holds(wanted, found.dtype) or is_widened(wanted, found.dtype)
    if not exact:
        raise HubError(
            f"a message has values of column {found.name} that {wanted}, as the contract has it, does not hold "
            f"exactly: correct its precision and scale"
        )


def _restoring(name: str, found: pl.DataType, wanted: pl.DataType | None) -> pl.Expr:
    column = pl.col(name)
    if found == pl.String() and wanted == INSTANT:
        return column.str.to_datetime("%Y-%m-%dT%H:%M:%S%.fZ", time_unit="us").dt.replace_time_zone("UTC")
    if found == _NAIVE:
        return column.dt.replace_time_zone("UTC")
    if wanted is None or is_widened(wanted, found):
        return column
    return column.cast(wanted)


def _big_endian(values: pl.Series) -> pl.Series:
    """Decimals as Avro has them: bytes, the highest first. Polars itself writes some without the bit of the sign.

    Arrow has the lowest byte first: the last value's bytes, read backwards, are the first value's.
    """
    backwards = values.reverse().rechunk().to_arrow()
    width, start = backwards.type.byte_width, backwards.offset
    data = backwards.buffers()[1].to_pybytes()[start * width : (start + len(values)) * width]
    fixed = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(values), [None, pa.py_buffer(data[::-1])])
    whole = pl.Series(values.name, fixed.cast(pa.binary()))
    return pl.select(pl.when(values.is_not_null()).then(whole).alias(values.name)).to_series()


def _inflated(block: bytes, rows: int) -> bytes:
    data: bytes = isal_zlib.decompress(block, _RAW_DEFLATE)
    if rows > len(data):  # polars would reserve memory for so many rows, and abort the process
        raise ValueError("a block is too short for its rows")
    return data


@dataclass(frozen=True)
class _Parsed:
    """An Avro object container: its schema, and its blocks as (rows, data)."""

    schema: bytes
    blocks: list[tuple[int, bytes]]


def _deflated(container: bytes, decimals: Mapping[str, pl.Decimal]) -> bytes:
    """The container with its blocks deflated, one block for all rows; `decimals` are declared as such."""
    parsed = _parsed(container)
    schema = parsed.schema.replace(b"local-timestamp-micros", b"timestamp-micros")  # they are instants, in UTC
    if decimals:
        schema = _with_decimals(schema, decimals)
    rows = sum(count for count, _ in parsed.blocks)
    data = isal_zlib.compress(b"".join(block for _, block in parsed.blocks), _ISAL_LEVEL, _RAW_DEFLATE)
    return _container(schema, b"deflate", _OUR_SYNC, [(rows, data)])


def _with_decimals(schema: bytes, decimals: Mapping[str, pl.Decimal]) -> bytes:
    """A schema in which columns of bytes are decimals."""
    record = json.loads(schema)
    for field in record["fields"]:
        if (dtype := decimals.get(field["name"])) is not None:
            digits = {"precision": dtype.precision, "scale": dtype.scale}
            field["type"] = ["null", {"type": "bytes", "logicalType": "decimal", **digits}]
    return json.dumps(record, separators=(",", ":")).encode()


def _parsed(container: bytes) -> _Parsed:
    """See the Avro specification, object container files."""
    if container[:4] != _MAGIC:
        raise ValueError("it does not start like an Avro container")
    meta, at = _metadata(container, len(_MAGIC))
    sync = container[at : at + len(_OUR_SYNC)]
    at += len(sync)
    blocks = []
    while at < len(container):
        count, at = _size(container, at)
        size, at = _size(container, at)
        end = at + size
        if container[end : end + len(sync)] != sync:
            raise ValueError("a block does not end in the sync marker")
        blocks.append((count, container[at:end]))
        at = end + len(sync)
    return _Parsed(meta[b"avro.schema"], blocks)


def _metadata(container: bytes, at: int) -> tuple[dict[bytes, bytes], int]:
    meta: dict[bytes, bytes] = {}
    while True:
        entries, at = _long(container, at)
        if entries == 0:
            return meta, at
        if entries < 0:
            _, at = _long(container, at)
        for _ in range(abs(entries)):
            size, at = _size(container, at)
            key = container[at : at + size]
            size, at = _size(container, at + size)
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


def _size(data: bytes, at: int) -> tuple[int, int]:
    """A number of bytes or rows, and where it ends; a negative one would lead back, round and round."""
    value, at = _long(data, at)
    if value < 0:
        raise ValueError("a size is negative")
    return value, at


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
