"""The errors that lpm_stream raises on purpose.

Each message is one line for a person: what is wrong, where, and what to do about it. The command line prints
it without a traceback; anything that is not an `LpmStreamError` is a defect of ours.
"""


class LpmStreamError(Exception):
    """Base of all errors that have an explanation for the user."""


class SpecError(LpmStreamError):
    """A feed's declaration (`defs.yaml`) is wrong; the message names file, line, field and fix."""


class SourceError(LpmStreamError):
    """The source table is missing, has no Change Data Feed, or was replaced."""


class SchemaError(SourceError):
    """The source table no longer fits the contract; publishing stops at that version."""


class HubError(LpmStreamError):
    """The hub cannot be read or written."""


class HubGapError(HubError):
    """The hub no longer keeps what a reader still needs, or keeps it damaged.

    Attributes:
        resume_after: behind this sequence number there are messages again.
    """

    def __init__(self, message: str, resume_after: int) -> None:
        super().__init__(message)
        self.resume_after = resume_after


class LeaseLostError(LpmStreamError):
    """Another worker has taken over; what was in hand is rolled back."""


class TargetFaultError(LpmStreamError):
    """A company's database as a whole is the problem: down, locked, full, refusing. Park and retry."""


class QuarantineFullError(TargetFaultError):
    """More rows of a company are refused than its feed allows: whatever it is, it is not single rows."""


class NoDatabaseError(TargetFaultError):
    """A company's database does not exist: right for one that has received nothing yet."""


class LegacyError(LpmStreamError):
    """The legacy files cannot be listed or read: nothing can be said about them now."""


class RowFaultError(LpmStreamError):
    """A company's database refuses a value: the row is the problem, not the database.

    What it says goes into quarantine with the row, which it may quote, and nowhere else.

    Attributes:
        rule: what the row breaks, for everybody to see: no value, no words of the company's own.
    """

    def __init__(self, message: str, rule: str) -> None:
        super().__init__(message)
        self.rule = rule


def told(error: BaseException) -> str:
    """What may be told of an error: an unexpected one's text may quote a row."""
    return str(error) if isinstance(error, LpmStreamError) else f"unexpected {type(error).__name__}"
