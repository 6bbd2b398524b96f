"""Work in a thread beside the demo."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Beside:
    """A thread that works until it is done or is told to stop."""

    def __init__(self, work: Callable[[threading.Event], object], name: str) -> None:
        self._over = threading.Event()
        self._failure: BaseException | None = None

        def run() -> None:
            try:
                work(self._over)
            except BaseException as error:  # noqa: BLE001 - raised again by the demo's thread
                self._failure = error

        self._thread = threading.Thread(target=run, name=name)

    @property
    def is_at_work(self) -> bool:
        """Whether it is not done yet."""
        return self._thread.is_alive()

    def require_well(self) -> None:
        """Raises what the work has failed with, if it has."""
        if self._failure is not None:
            raise self._failure

    def wait(self, seconds: float) -> None:
        """Waits until it is done, for so long at most."""
        self._thread.join(seconds)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the work."""
        self._over.set()
        self._thread.join()


@contextmanager
def beside(work: Callable[[threading.Event], object], name: str) -> Iterator[Beside]:
    """Runs work in a thread of its own.

    Args:
        work: is given an event that asks it to end.
        name: of the thread.

    Raises:
        BaseException: what the work has failed with, once the block is through.
    """
    running = Beside(work, name)
    running.start()
    try:
        yield running
    finally:
        running.stop()
    running.require_well()
