"""A demo's own hub and databases, which no other demo has written to: its table counts versions from 0."""

from lpm_stream.control import progress, registry
from lpm_stream.errors import LpmStreamError
from lpm_stream.stream import Stream


def require_own_places(stream: Stream) -> None:
    """Checks that a demo which begins finds nothing in its hub and its databases; makes these.

    Watermarks of another demo would cover what this one publishes. One that was published before goes on with
    what it has.

    Raises:
        LpmStreamError: naming what is another's, or a database that cannot be opened.
    """
    if progress.read_cursor(stream.store, stream.spec.name) is not None:
        return
    if any(stream.hub.end(partition) for partition in stream.hub.partitions()):
        raise LpmStreamError(
            f"the hub has messages already, of another demo or a stream: name a hub or topic that is new, or go "
            f"on with that demo by its --dir (this one is {stream.settings.home})"
        )
    for company in registry.registered(stream.store):
        with stream.company_database(company) as database, database.transaction() as transaction:
            if not transaction.watermark().is_new:
                raise LpmStreamError(
                    f"the database of company {company!r} has rows already, of another demo or a stream: name "
                    f"others with --databases, or go on with that demo by its --dir "
                    f"(this one is {stream.settings.home})"
                )
