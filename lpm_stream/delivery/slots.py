"""The threads in which company databases are written.

Unlike those of `concurrent.futures` they do not keep the process from ending: a database that never answers must
not either, and what such a thread has in hand is rolled back.
"""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")
_Work = tuple[Future[T], Callable[[], T]]


class Slots(Generic[T]):
    """Runs work in threads, at most so many at once; what is more waits."""

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._work: queue.SimpleQueue[_Work[T] | None] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._threads = 0

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Has work done in a thread; only one thread may call this."""
        task: Future[T] = Future()
        self._work.put((task, work))
        if not self._idle.acquire(blocking=False) and self._threads < self._most:
            self._threads += 1
            threading.Thread(target=self._run, name=f"{self._name}_{self._threads}", daemon=True).start()
        return task

    def close(self) -> None:
        """Lets the threads end with what they have in hand; what waits is not begun."""
        while not self._work.empty():
            self._work.get()
        for _ in range(self._threads):
            self._work.put(None)

    def _run(self) -> None:
        while (one := self._work.get()) is not None:
            task, work = one
            try:
                task.set_result(work())
            except BaseException as error:  # noqa: BLE001 - whoever waits for the task gets it
                task.set_exception(error)
            del one, task, work
            self._idle.release()
