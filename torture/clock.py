"""A clock of its own for a process, which jumps while it runs (libfaketime)."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Clock:
    """A wall clock; the monotonic one stays what it is, as in the case of a real jump."""

    path: Path

    def jump(self, offset: str) -> None:
        """Moves it, by such as `+2h`, from what it really is."""
        draft = self.path.with_suffix(".draft")
        draft.write_text(f"{offset}\n", encoding="ascii")
        draft.replace(self.path)

    @property
    def environment(self) -> dict[str, str]:
        """For a process that is to have this clock."""
        found = importlib.util.find_spec("libfaketime")
        if found is None or found.origin is None:
            raise RuntimeError("libfaketime is not installed: make torture does so")
        library = Path(found.origin).parent / "vendor" / "libfaketime" / "src" / "libfaketime.so.1"
        return {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self.path),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }


@contextmanager
def jumping(path: Path) -> Iterator[Clock]:
    """A clock that is right at first."""
    clock = Clock(path)
    clock.jump("+0")
    yield clock
    path.unlink()
