import pytest

from lpm_stream.errors import TargetFaultError
from lpm_stream.settings import Settings
from lpm_stream.stream import open_stream
from lpm_stream_tests.example import SPEC


def test_what_a_library_said_goes_no_further_with_our_own_error(settings: Settings):
    """Dagster keeps an error with its causes."""
    with pytest.raises(TargetFaultError) as caught, open_stream(settings, SPEC):
        raise TargetFaultError("the disk is full") from ValueError("a caller")
    assert (caught.value.__cause__, caught.value.__suppress_context__) == (None, True)
