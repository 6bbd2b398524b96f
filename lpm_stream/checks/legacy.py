"""The checks against the legacy files, as the kept comparisons with them answer."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from lpm_stream.checks.result import MOST_EXAMPLES, Result, Value, severity
from lpm_stream.control import reconciliations
from lpm_stream.control.reconciliations import Kept
from lpm_stream.stream import Stream

_BAD = {"failed", "late"}


def complete_against_legacy(stream: Stream, companies: Sequence[str], now: datetime) -> Iterator[Result]:
    """Whether every file of the last time agrees with the company's table, and none is overdue."""
    spec = stream.spec
    for company, kept in _lately(stream, companies, now).items():
        bad = [one for one in kept if one.verdict in _BAD]
        values: dict[str, Value] = {
            "files": sum(one.file is not None for one in kept),
            "bad_files": len(bad),
            "rows_in_file": sum(one.rows_in_file for one in kept),
            **{name: sum(getattr(one, name) for one in kept) for name in _COUNTS},
        }
        if kept:
            values["newest_period"] = kept[-1].period_start
        what = f"{len(kept):,} periods, all complete" if kept else "no legacy file yet"
        if bad:
            what = f"{len(bad):,} periods are not complete; the last: {_said(bad[-1])}"
        examples = [example for one in reversed(bad) for example in _examples(one)]
        yield Result(
            "complete_against_legacy",
            company,
            not bad,
            severity(spec, "complete_against_legacy"),
            what,
            values,
            tuple(examples[:MOST_EXAMPLES]),
            failure="periods are not complete",
        )


_COUNTS = ("missing", "extra", "different", "broken", "explained")


def sooner_than_legacy(stream: Stream, companies: Sequence[str], now: datetime) -> Iterator[Result]:
    """Whether the stream brought every record of the files of the last time before its file came."""
    spec = stream.spec
    for company, kept in _lately(stream, companies, now).items():
        known = [(one, one.details["sooner"]) for one in kept if one.details["sooner"]]
        later = [(one, sooner) for one, sooner in known if sooner["least"] < 0]
        values: dict[str, Value] = {"files": len(known), "files_before_stream": len(later)}
        what = "nothing to compare yet"
        if known:
            values["rows"] = sum(sooner["rows"] for _, sooner in known)
            values["least_seconds"] = min(sooner["least"] for _, sooner in known)
            values["median_seconds_of_newest_file"] = known[-1][1]["median"]
            what = f"each record at least {values['least_seconds']:,.0f} s before its file"
        if later:
            what = f"records of {len(later):,} of {len(known):,} files came later than their file"
        examples = tuple(
            {"file": one.file or "", "least_seconds": f"{sooner['least']:g}", "rows": str(sooner["rows"])}
            for one, sooner in reversed(later[-MOST_EXAMPLES:])
        )
        passed = not later
        yield Result(
            "sooner_than_legacy",
            company,
            passed,
            severity(spec, "sooner_than_legacy"),
            what,
            values,
            examples,
            failure="records came later than their file",
        )


def _lately(stream: Stream, companies: Sequence[str], now: datetime) -> dict[str, list[Kept]]:
    """Company to its results, oldest period first."""
    since = now - timedelta(hours=stream.spec.checks.look_back_hours)
    results: dict[str, list[Kept]] = {company: [] for company in companies}
    for one in reconciliations.read(stream.store, stream.spec.name, since=since):
        if one.company in results:
            results[one.company].append(one)
    return results


def _said(one: Kept) -> str:
    counts = [f"{count:,} {name}" for name in _COUNTS[:-1] if (count := getattr(one, name))]
    said = "; ".join([*([one.problem] if one.problem else []), *counts])
    return f"{one.file or one.period_start.isoformat()}: {said}"


def _examples(one: Kept) -> Iterator[dict[str, str]]:
    where = {"file": one.file or "", "period": one.period_start.isoformat()}
    found = [(kind, example) for kind, examples in one.details["examples"].items() for example in examples]
    for kind, example in found:
        key, columns = ", ".join(map(str, example["key"])), ", ".join(example["columns"])
        yield {**where, "kind": kind, "key": key, "columns": columns}
    for line in one.details["broken"]:
        yield {**where, "kind": "broken", "key": f"line {line['line']}", "columns": ""}
    if not found and not one.details["broken"]:
        yield {**where, "kind": one.verdict, "key": "", "columns": ""}
