import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from torture.fault import Finding
from torture.report import Run, show, write

CLEAN = Finding("lock", 1, lost=0, doubled=0, calm_p99=1.0, p99=1.15, in_status=True, in_log=True, seconds=12.3)
RUN = Run("short", 7, "abc", complete=True, seconds=99.0, findings=(CLEAN,))


@pytest.mark.parametrize(
    "change",
    [
        {"lost": 1},
        {"doubled": 1},
        {"lost": None},
        {"in_status": False},
        {"in_log": False},
        {"problem": "it broke"},
        {"most_rise": 0.10},
        {"most_rise": 0.10, "p99": None},
    ],
)
def test_whatever_went_wrong_makes_a_finding_and_its_run_bad(change):
    finding = replace(CLEAN, **change)
    assert not finding.good
    assert not replace(RUN, findings=(CLEAN, finding)).good


@pytest.mark.parametrize("change", [{}, {"in_status": None, "in_log": None}, {"most_rise": 0.20}])
def test_what_nobody_asked_for_is_not_held_against_it(change):
    assert replace(CLEAN, **change).good


def test_a_run_that_was_cut_off_or_tried_nothing_is_not_good():
    assert RUN.good
    assert not replace(RUN, complete=False).good
    assert not replace(RUN, findings=()).good


def test_a_run_is_kept_as_far_as_it_has_come(tmp_path):
    path = tmp_path / "build" / "torture.json"
    write(replace(RUN, complete=False, findings=()), path)
    assert json.loads(path.read_text())["findings"] == []
    write(RUN, path)
    kept = json.loads(path.read_text())
    assert {name: kept[name] for name in ("form", "seed", "commit", "complete", "seconds", "good")} == {
        "form": "short",
        "seed": 7,
        "commit": "abc",
        "complete": True,
        "seconds": 99.0,
        "good": True,
    }
    [finding] = kept["findings"]
    assert finding["good"]
    assert finding["rise"] == pytest.approx(0.15)
    assert [one.name for one in path.parent.iterdir()] == ["torture.json"]


def test_the_table_says_shown_only_of_what_somebody_looked_at():
    rise = replace(CLEAN, fault="hang", most_rise=0.10, in_log=False)
    lines = shown(replace(RUN, findings=(replace(CLEAN, in_status=None, in_log=None), rise), complete=False))
    [unseen] = [line for line in lines if " lock " in line]
    [seen] = [line for line in lines if " hang " in line]
    assert "shown" not in unseen
    assert [cell.strip() for cell in seen.split("│")[7:11]] == ["+15% of 10%", "shown", "-", "12 s"]
    assert "seed 7, commit abc, 99 s in all, CUT OFF" in lines[-1]


def shown(run: Run) -> list[str]:
    output = io.StringIO()
    show(run, Console(file=output, width=170))
    return output.getvalue().strip().splitlines()
