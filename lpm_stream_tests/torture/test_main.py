import json
import sys
from collections.abc import Iterator

import pytest

from torture import __main__ as torture
from torture.fault import Finding

CLEAN = Finding("lock", 1, lost=0, doubled=0)


def findings(*found: Finding, then: BaseException | None = None) -> Iterator[Finding]:
    """What is found, and what happens then."""
    yield from found
    if then is not None:
        raise then


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setattr(torture, "_JSON", tmp_path / "torture.json")
    monkeypatch.setattr(sys, "argv", ["torture", "--short", "--seed", "7"])
    return lambda: json.loads((tmp_path / "torture.json").read_text())


@pytest.mark.parametrize(
    ("found", "code"), [([CLEAN], 0), ([CLEAN, Finding("full", problem="no room")], 1), ([], 1)]
)
def test_it_fails_if_anything_went_wrong_or_nothing_was_tried(kept, monkeypatch, found, code):
    monkeypatch.setattr(torture, "_findings", lambda *_: findings(*found))
    assert torture.main() == code
    assert kept()["good"] is (code == 0)
    assert [one["fault"] for one in kept()["findings"]] == [one.fault for one in found]


@pytest.mark.parametrize("cut", [KeyboardInterrupt(), RuntimeError("no broker")])
def test_what_was_found_before_it_was_cut_off_is_kept(kept, monkeypatch, capsys, cut):
    monkeypatch.setattr(torture, "_findings", lambda *_: findings(CLEAN, then=cut))
    with pytest.raises(type(cut)):
        torture.main()
    assert (kept()["seed"], kept()["complete"], kept()["good"]) == (7, False, False)
    assert [one["fault"] for one in kept()["findings"]] == ["lock"]
    assert "CUT OFF" in capsys.readouterr().out
