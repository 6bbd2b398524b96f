"""Columns of chance, a whole column at a time: picks, digits, and record ids that sort by time."""

from collections.abc import Mapping
from datetime import datetime

import numpy as np
import numpy.typing as npt
import polars as pl

Milliseconds = npt.NDArray[np.int64]
"""Instants in milliseconds since 1970 UTC, or spans of them."""

_CROCKFORD = np.frombuffer(b"0123456789ABCDEFGHJKMNPQRSTVWXYZ", dtype=np.uint8)


def milliseconds(moment: datetime) -> int:
    """An aware instant in whole milliseconds since 1970 UTC."""
    return int(moment.timestamp() * 1000)


def pick(rng: np.random.Generator, shares: Mapping[str, float], count: int) -> pl.Series:
    """`count` of the keys of `shares`, each as often as its share of the total."""
    weights = np.array(list(shares.values()))
    chosen = rng.choice(len(weights), size=count, p=weights / weights.sum())
    return pl.Series(list(shares)).gather(chosen)


def hex_digits(rng: np.random.Generator, count: int, digits: int) -> pl.Series:
    """`count` texts of `digits` (an even number) hexadecimal digits each."""
    text = rng.bytes(count * digits // 2).hex().encode()
    return pl.Series(np.frombuffer(text, dtype=f"S{digits}")).cast(pl.String)


def ulids(rng: np.random.Generator, written: Milliseconds) -> pl.Series:
    """Monotonic ULIDs: they sort by time, and rows of the same millisecond in their order.

    Within one call the random part is one writer's (40 bits), then a sequence that starts anew each
    millisecond: nearly as unique as 80 random bits, at a fifth of their bytes on the wire.

    Args:
        rng: the source of chance.
        written: when each row was written, ascending.
    """
    writer = np.full_like(written, rng.integers(32**8))
    sequence = np.arange(len(written)) - np.searchsorted(written, written)
    digits = np.hstack([_base32(part, width) for part, width in ((written, 10), (writer, 8), (sequence, 8))])
    return pl.Series(np.ascontiguousarray(digits).view(f"S{digits.shape[1]}").ravel()).cast(pl.String)


def _base32(values: Milliseconds, width: int) -> npt.NDArray[np.uint8]:
    shifts = np.arange(width - 1, -1, -1) * 5
    digits: npt.NDArray[np.uint8] = _CROCKFORD[(values[:, np.newaxis] >> shifts) & 31]
    return digits
