"""What a browser asks of Dagster's webserver."""

import json
import urllib.request
from typing import Any

PARTITIONS = """
query Partitions($path: [String!]!) {
  assetNodeOrError(assetKey: {path: $path}) { ... on AssetNode { partitionKeys } }
}
"""

TICKS = """
query Ticks($name: String!) {
  sensorOrError(
    sensorSelector: {
      repositoryName: "__repository__", repositoryLocationName: "lpm_stream", sensorName: $name
    }
  ) {
    ... on Sensor { sensorState { ticks(limit: 100) { status skipReason error { message } } } }
  }
}
"""

EVENTS = """
query Events($path: [String!]!, $partitions: [String!]) {
  assetOrError(assetKey: {path: $path}) {
    ... on Asset {
      assetMaterializations(partitions: $partitions) {
        runId
        metadataEntries { label ... on IntMetadataEntry { intValue } ... on FloatMetadataEntry { floatValue } }
      }
      assetObservations(partitions: $partitions, limit: 10) {
        runId
        metadataEntries { label ... on IntMetadataEntry { intValue } }
      }
    }
  }
}
"""

LAUNCH = """
mutation Launch($path: [String!]!, $tags: [ExecutionTag!]!) {
  launchRun(
    executionParams: {
      selector: {
        repositoryName: "__repository__"
        repositoryLocationName: "lpm_stream"
        jobName: "__ASSET_JOB"
        assetSelection: [{path: $path}]
        assetCheckSelection: []
      }
      executionMetadata: {tags: $tags}
    }
  ) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
  }
}
"""

BACKFILL = """
mutation Backfill($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
  }
}
"""

BACKFILLED = """
query Backfilled($id: String!) {
  partitionBackfillOrError(backfillId: $id) {
    ... on PartitionBackfill { status runs { runId } }
  }
}
"""

CHECK = """
mutation Check($path: [String!]!, $name: String!, $tags: [ExecutionTag!]!) {
  launchRun(
    executionParams: {
      selector: {
        repositoryName: "__repository__"
        repositoryLocationName: "lpm_stream"
        jobName: "__ASSET_JOB"
        assetSelection: []
        assetCheckSelection: [{assetKey: {path: $path}, name: $name}]
      }
      executionMetadata: {tags: $tags}
    }
  ) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
  }
}
"""

CHECKED = """
query Checked($path: [String!]!, $name: String!, $partition: String!) {
  assetCheckExecutions(assetKey: {path: $path}, checkName: $name, partition: $partition, limit: 10) {
    runId status evaluation { success severity partition }
  }
}
"""

STALENESS = """
query Staleness($path: [String!]!, $partition: String!) {
  assetNodeOrError(assetKey: {path: $path}) {
    ... on AssetNode { staleStatus(partition: $partition) staleCauses(partition: $partition) { reason } }
  }
}
"""

RUN = """
query Run($id: ID!) { runOrError(runId: $id) { ... on Run { status endTime } } }
"""


def ask(url: str, query: str, **variables: Any) -> Any:
    """Sends a query or mutation; the content of its one field."""
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(f"{url}/graphql", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        content = json.load(answer)
    assert "errors" not in content, content["errors"]
    [value] = content["data"].values()
    return value


def numbers(event: Any) -> dict[str, float]:
    """The numeric metadata of an event."""
    entries = event["metadataEntries"]
    return {one["label"]: one.get("intValue", one.get("floatValue")) for one in entries if len(one) > 1}
