"""The tag by which a company's runs are found, whoever started them."""

import dagster as dg

COMPANY_TAG = "company"


def tag_company(context: dg.OpExecutionContext | dg.AssetExecutionContext, company: str) -> None:
    """Tags a run with the company that it works for.

    Args:
        context: of the run.
        company: the company's id.
    """
    context.instance.add_run_tags(context.run.run_id, {COMPANY_TAG: company})
