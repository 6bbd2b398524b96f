"""Calls into client libraries that may never come back, with a limit on how long they are waited for."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


def within(seconds: float, call: Callable[[], T]) -> T:
    """What `call` returns; see `all_within`."""
    return all_within(seconds, [call])[0]


def all_within(seconds: float, calls: Sequence[Callable[[], T]]) -> list[T]:
    """Runs calls side by side and returns what they return, in their order.

    A call that is not over in time is abandoned: it goes on in its thread, which does not keep the process alive.

    Raises:
        TimeoutError: if one is not over after so many seconds.
        BaseException: the first error that one of them raised, once all are over.
    """
    deadline = time.monotonic() + seconds
    running = [_Running(call) for call in calls]
    for one in running:
        one.thread.join(max(deadline - time.monotonic(), 0))
    if left := sum(one.thread.is_alive() for one in running):
        of_them = f" ({left} of {len(running)} calls)" if len(running) > 1 else ""
        raise TimeoutError(f"no answer within {seconds:g} s{of_them}")
    for one in running:
        if one.error is not None:
            raise one.error
    return [one.results[0] for one in running]


class _Running(Generic[T]):
    def __init__(self, call: Callable[[], T]) -> None:
        self.results: list[T] = []
        self.error: BaseException | None = None
        self._call = call
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.results.append(self._call())
        except BaseException as error:  # noqa: BLE001 - handed to the caller
            self.error = error
