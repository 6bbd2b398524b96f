"""The audit of companies that get different columns: one pass for each set of column groups."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from lpm_stream.audit.report import AuditReport
from lpm_stream.control.registry import Served
from lpm_stream.feed.spec import FeedSpec

One = Callable[[FeedSpec, Mapping[str, str]], AuditReport]


def audit_entitled(spec: FeedSpec, companies: Sequence[Served], audit: One) -> AuditReport:
    """Audits each company against the contract that it is entitled to.

    Args:
        spec: the feed, whole.
        companies: whom to audit.
        audit: audits companies of one contract, given that and the places of their databases.

    Returns:
        One report. With several passes, the version is that of the first, and the settled version of the last.
    """
    databases: dict[tuple[str, ...], dict[str, str]] = {}
    for one in companies:
        databases.setdefault(one.entitlement.groups, {})[one.company] = one.database
    passes = [(spec.for_groups(groups), places) for groups, places in databases.items()]
    reports = [audit(contract, places) for contract, places in passes or [(spec, {})]]
    if len(reports) == 1:
        return reports[0]
    everybody = sorted((one for report in reports for one in report.companies), key=lambda one: one.company)
    elsewhere = sum(one.counts.rows_in_table for report in reports[1:] for one in report.companies)
    return replace(
        reports[0],
        settled_version=reports[-1].settled_version,
        companies=type(reports[0].companies)(everybody),
        unregistered=max(reports[0].unregistered - elsewhere, 0),
    )
