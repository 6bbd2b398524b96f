"""Work done at once, in the caller's thread: so that the same seed does the same again."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class InlineSlots(Generic[T]):
    """In place of `lpm_stream.delivery.slots.Slots`."""

    def __init__(self, most: int, name: str) -> None:
        pass

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Does the work; what it returns or raises is in the future."""
        task: Future[T] = Future()
        try:
            task.set_result(work())
        except BaseException as error:  # noqa: BLE001 - whoever looks at the task gets it
            task.set_exception(error)
        return task

    def close(self) -> None:
        """Nothing is left."""
