"""What the source table looks like now."""

from dataclasses import dataclass

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from lpm_stream.errors import SchemaError
from lpm_stream.feed.schema import fit
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.source.delta import has_cdf, schema_of
from lpm_stream.source.failure import unreadable


@dataclass(frozen=True)
class TableState:
    """A source table at one version.

    Attributes:
        location: its path or URL.
        table_id: changes when the table is created anew.
        version: its newest version.
        rows: number of rows, from the statistics of its files.
        cdf: whether its Change Data Feed is on.
        held_columns: columns that the schema policy holds back.
        misfit: why it does not fit the contract; None if it does.
    """

    location: str
    table_id: str
    version: int
    rows: int
    cdf: bool
    held_columns: tuple[str, ...]
    misfit: str | None


def look(spec: FeedSpec, location: str) -> TableState:
    """Looks at a source table.

    Raises:
        SourceError: if there is none, or it cannot be read.
    """
    try:
        table = DeltaTable(location)
        metadata = table.metadata()
        held, misfit = _fit(spec, table)
        return TableState(
            location=location,
            table_id=str(metadata.id),
            version=table.version(),
            rows=table.count(),
            cdf=has_cdf(table),
            held_columns=held,
            misfit=misfit,
        )
    except (DeltaError, OSError) as error:  # OSError: the object store does not answer
        raise unreadable(location, error) from error


def _fit(spec: FeedSpec, table: DeltaTable) -> tuple[tuple[str, ...], str | None]:
    try:
        return fit(spec, schema_of(table)).held, None
    except SchemaError as error:
        return (), str(error)
