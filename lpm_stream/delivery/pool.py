"""Open company databases, kept for their next use."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lpm_stream.delivery.database import CompanyDatabase
from lpm_stream.feed.entitlement import Entitlement

_KEPT_OPEN = 200
Place = tuple[str, str, Entitlement]  # a company, where its database is, and what it may get


class DatabasePool:
    """Lends each company's database to one borrower at a time; the least recently used are closed.

    So is that of another place of the same company, where its database was, or with what it was entitled to.
    """

    def __init__(self, open_one: Callable[[Place], CompanyDatabase]) -> None:
        self._open_one = open_one
        self._idle: OrderedDict[Place, CompanyDatabase] = OrderedDict()
        self._lock = threading.Lock()
        self._closed = False

    @contextmanager
    def borrow(self, place: Place) -> Iterator[CompanyDatabase]:
        """The company's database; after an error it is closed and the next borrower opens it anew."""
        with self._lock:
            database = self._idle.pop(place, None)
            outdated = [] if database else [known for known in self._idle if known[0] == place[0]]
            closing = [self._idle.pop(known) for known in outdated]
        for one in closing:
            one.close()
        if database is None:
            database = self._open_one(place)
        try:
            yield database
        except BaseException:
            database.close()
            raise
        with self._lock:
            self._idle[place] = database
            limit = 0 if self._closed else _KEPT_OPEN
            surplus = [self._idle.popitem(last=False)[1]] if len(self._idle) > limit else []
        for one in surplus:
            one.close()

    def close(self) -> None:
        """Closes all idle databases, and lent ones as they come back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, OrderedDict()
        for database in idle.values():
            database.close()
