import dagster as dg
import pytest

from lpm_stream.components.partitions import by_partition_key, partition_key

PLAIN = [
    "ACME",
    "acme",
    "it's",
    "a/b",
    "..",
    "two words",
    "Zürich 🚑",
    'say "hi"',
    "x" * 450,
    ":x",
    "-",
    "C:\\x",
    " ",
]
ODD = ["...", "a...b", "....", "a\tb", "a\nb", "\x00", "\x1b", "100%", "a%2E%2E%2Eb", "%09", "...%", "\x7f"]


@pytest.mark.parametrize("company", PLAIN)
def test_ids_that_dagster_takes_are_their_own_keys(company):
    assert partition_key(company) == company


def test_no_two_ids_have_the_same_key():
    companies = [*PLAIN, *ODD, *(partition_key(company) for company in ODD)]
    assert len({partition_key(company) for company in companies}) == len(set(companies))


def test_keys_lead_back_to_their_companies():
    companies = PLAIN + ODD
    known = by_partition_key(companies)
    assert [known[partition_key(company)] for company in companies] == companies


def test_dagster_takes_every_key():
    keys = [partition_key(company) for company in PLAIN + ODD]
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("customer", keys)
        for key in keys:
            instance.report_runless_asset_event(dg.AssetMaterialization("companies", partition=key))
        assert sorted(instance.get_dynamic_partitions("customer")) == sorted(keys)
        assert instance.get_materialized_partitions(dg.AssetKey("companies")) == set(keys)
