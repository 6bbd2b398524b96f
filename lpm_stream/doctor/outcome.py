"""What looking at one part found."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from lpm_stream.errors import told
from lpm_stream.hub.bounded import within

log = logging.getLogger(__name__)

Verdict = Literal["ok", "failed", "skipped"]


@dataclass(frozen=True)
class Outcome:
    """How a part is.

    Attributes:
        part: what was looked at, such as "hub".
        verdict: "skipped" where there is nothing to look at, or what it needs has failed.
        what: what was found, or what is wrong.
        fix: what to do about it; empty where nothing is to be done.
    """

    part: str
    verdict: Verdict
    what: str
    fix: str = ""


class NothingThereError(Exception):
    """There is nothing to look at, and nothing wrong with that; the text says why."""


def examine(part: str, look: Callable[[], str], *, fix: str, seconds: float) -> Outcome:
    """Looks at a part; whatever is wrong with it is in the outcome.

    Args:
        part: its name.
        look: returns what it found. It runs in a thread of its own, which is abandoned where it does not end.
        fix: what to do if it fails, beside what the error says.
        seconds: how long to wait for it.
    """
    try:
        return Outcome(part, "ok", within(seconds, look))
    except NothingThereError as nothing:
        return Outcome(part, "skipped", str(nothing))
    except TimeoutError as error:
        return Outcome(part, "failed", str(error), fix)
    except Exception as error:  # noqa: BLE001 - a doctor does not fall ill of what it finds
        log.debug("%s: %s", part, error)
        return Outcome(part, "failed", " ".join(told(error).split()), fix)
