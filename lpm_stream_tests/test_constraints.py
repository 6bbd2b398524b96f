"""What `make install` pins."""

import re
from pathlib import Path

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"


def test_packages_are_pinned_by_version_and_never_by_a_place():
    lines = [line for line in CONSTRAINTS.read_text().splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line)] == []
