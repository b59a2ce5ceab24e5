"""A profile of the cluster on a laptop: for servers of every namespace, and live."""

from __future__ import annotations

from collections.abc import Callable

from tests.local.conftest import EXAMPLES, FleetProcess, until


def test_an_edit_reaches_the_servers_of_every_namespace_without_a_restart(
    make_fleet: Callable[[str], FleetProcess],
) -> None:
    text = (EXAMPLES / "quickstart.yaml").read_text()
    text = text.replace("kind: LatencyProfile", "kind: ClusterLatencyProfile")
    text = text.replace("profileRef:", "profileRef:\n    kind: ClusterLatencyProfile")
    fleet = make_fleet(text.replace("name: beta", "name: beta\n  namespace: lab", 1))
    fleet.start()
    before = {name: replica["pid"] for name, replica in fleet.replicas().items()}
    fleet.edit("timeToFirstToken: 200ms", "timeToFirstToken: 300ms")
    until(lambda: fleet.settled(revision=2), "both servers run the new document")
    rows = fleet.status()["rows"]
    assert {(row["server"], row["revision"]) for row in rows} == {("alpha", 2), ("lab/beta", 2)}
    assert {name: replica["pid"] for name, replica in fleet.replicas().items()} == before
