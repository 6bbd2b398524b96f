"""The wall clock, watched: whoever sets it changes what latencies and times of retries mean."""

import logging
import time

log = logging.getLogger(__name__)

_NOTEWORTHY_SECONDS = 5.0  # more than a clock that is kept right is ever moved by at once


class WallClock:
    """Notices that the wall clock was set, by the monotonic one, which nobody can set."""

    def __init__(self) -> None:
        self._ahead = _ahead()

    def look(self) -> None:
        """Says so if it was set since the last look."""
        jump = _ahead() - self._ahead
        if abs(jump) > _NOTEWORTHY_SECONDS:
            self._ahead += jump
            log.warning(
                "this machine's clock jumped by %+.0f s (it was set, or the machine slept): latencies measured "
                "across the jump are wrong by as much",
                jump,
            )


def _ahead() -> float:
    return time.time() - time.monotonic()
