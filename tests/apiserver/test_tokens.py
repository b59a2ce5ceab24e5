"""Admin tokens: how they change, that a Secret which was deleted comes back, and who is sent which."""

from __future__ import annotations

import base64
import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest
from tests.apiserver.cluster import Cluster, Json, document_of, eventually, names_of, server
from tests.apiserver.conftest import Operator, StartOperator
from tests.apiserver.fleet import Fleet, address, fleet, set_ttft

from ghostfleet_operator.reconcile.api import SECRET, SERVER
from ghostfleet_operator.resolve import ADMIN_PORT

PUSHES = "ghostfleet_operator_profile_push_total"


def secret_of(cluster: Cluster, namespace: str, name: str = "one") -> Json:
    return cluster.must_get(SECRET, namespace, names_of(cluster, namespace, name).secret)


def tokens_in(secret: Json) -> list[str]:
    return base64.b64decode(secret["data"]["token"]).decode().splitlines()


def status_with(running: Fleet, suffix: str, token: str) -> int:
    url = f"http://{running.addresses[suffix]}:{ADMIN_PORT}/admin/state"
    return httpx.get(url, headers={"authorization": f"Bearer {token}"}, trust_env=False).status_code


def accepts_all_of(running: Fleet, suffix: str, tokens: list[str]) -> None:
    eventually(lambda: all(status_with(running, suffix, token) == 200 for token in tokens) or None)


def test_a_key_is_replaced_by_way_of_two_without_a_restart_or_a_pod_that_lags(
    cluster: Cluster, start_operator: StartOperator, namespace: str, tmp_path: Path
) -> None:
    """The new key goes before the old one in the file, then the old one goes. Pods' files follow when they will."""
    old, new = "first-key-of-16-bytes", "second-key-of-16-bytes"
    keys = tmp_path / "keys"
    keys.write_text(f"{old}\n")
    with (
        start_operator("--namespace", namespace, "--key-file", str(keys), "--observe-seconds", "1") as operator,
        fleet(cluster, namespace, tmp_path, "a", "b") as running,
    ):
        running.synced(1)
        (before,) = tokens_in(secret_of(cluster, namespace))

        keys.write_text(f"{new}\n{old}\n")
        both = eventually(lambda: two_tokens(cluster, namespace))
        assert both[1] == before
        set_ttft(cluster, namespace, "31ms")
        running.synced(2)  # though no pod has the new token yet
        running.refresh("a")
        accepts_all_of(running, "a", both)
        set_ttft(cluster, namespace, "32ms")
        running.synced(3)  # one pod has it, the other one not
        running.refresh("b")

        keys.write_text(f"{new}\n")
        eventually(lambda: tokens_in(secret_of(cluster, namespace)) == both[:1] or None)
        set_ttft(cluster, namespace, "33ms")
        running.synced(4)
        running.refresh("a")
        eventually(lambda: status_with(running, "a", before) == 401 or None)
        running.synced(4)
        assert operator.metric(f'{PUSHES}{{result="acknowledged"') >= 6
        assert operator.metric(f'{PUSHES}{{result="refused"') == 0


def two_tokens(cluster: Cluster, namespace: str) -> list[str]:
    tokens = tokens_in(secret_of(cluster, namespace))
    assert len(tokens) == 2
    return tokens


def test_a_key_file_that_turns_bad_leaves_the_keys_as_they_were(
    cluster: Cluster, start_operator: StartOperator, namespace: str, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("a key of many bytes\n")
    with start_operator(
        "--namespace", namespace, "--key-file", str(keys), "--observe-seconds", "1", "--resync-seconds", "1"
    ) as operator:
        cluster.create(server(namespace, "one"))
        before = eventually(lambda: secret_of(cluster, namespace))
        keys.write_text("a key of many bytes\nshort\n")
        eventually(lambda: "of no use" in operator.log.read_text() or None)
        keys.unlink()
        eventually(lambda: "cannot be read" in operator.log.read_text() or None)
        patches = secrets_written(operator)
        eventually(lambda: secrets_written(operator) > patches or None)
        assert secret_of(cluster, namespace)["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
        assert operator.log.read_text().count("of no use") == 1


def secrets_written(operator: Operator) -> float:
    return operator.metric('ghostfleet_operator_api_requests_total{code="200",resource="secrets"')


def test_a_token_that_became_known_is_revoked_by_the_epoch(
    cluster: Cluster, start_operator: StartOperator, namespace: str, tmp_path: Path
) -> None:
    """The pods of this server only get another one; until they have it the operator goes on with the one before."""
    with start_operator("--namespace", namespace, "--observe-seconds", "1") as operator:
        cluster.create(server(namespace, "other"))
        others = eventually(lambda: secret_of(cluster, namespace, "other"))
        with fleet(cluster, namespace, tmp_path, "a") as running:
            running.synced(1)
            (known,) = tokens_in(secret_of(cluster, namespace))
            cluster.merge(SERVER, namespace, "one", {"spec": {"adminTokenEpoch": 2}})
            (fresh,) = eventually(lambda: changed(tokens_in(secret_of(cluster, namespace)), [known]))
            set_ttft(cluster, namespace, "31ms")
            running.synced(2)
            running.refresh("a")
            accepts_all_of(running, "a", [fresh])
            assert status_with(running, "a", known) == 401
            set_ttft(cluster, namespace, "32ms")
            running.synced(3)
        assert secret_of(cluster, namespace, "other")["data"] == others["data"]
        assert operator.metric(f'{PUSHES}{{result="refused"') == 0


def changed(now: list[str], before: list[str]) -> list[str]:
    assert now != before
    return now


@pytest.mark.parametrize("ready", [True, False], ids=["of a server at rest", "when a pod may wait for it"])
def test_a_deleted_secret_comes_back(
    cluster: Cluster, start_operator: StartOperator, namespace: str, tmp_path: Path, ready: bool
) -> None:
    """It may not be watched: it is applied blindly, each time that it is this server's turn."""
    with (
        start_operator("--namespace", namespace, "--observe-seconds", "1", "--resync-seconds", "3000") as operator,
        fleet(cluster, namespace, tmp_path, *(["a"] if ready else []), replicas=1) as running,
    ):
        if ready:
            running.synced(1)
        else:
            running.pods.add("a", address(), ready=False)
        first = secret_of(cluster, namespace)
        patches = secrets_written(operator)
        eventually(lambda: secrets_written(operator) > patches + 1 or None)
        again = secret_of(cluster, namespace)
        assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"], (
            "what is there is let alone"
        )
        cluster.delete(SECRET, namespace, first["metadata"]["name"])
        second = eventually(lambda: secret_of(cluster, namespace), within=30)
        assert second["data"] == first["data"]
        event = eventually(lambda: cluster.events(namespace, "DriftCorrected")[0])
        assert event["message"] == f"Secret {first['metadata']['name']} was put right: it was deleted"


class Impostor(HTTPServer):
    """Somebody else's pod that got the address of one that is gone; keeps what it is sent."""

    def __init__(self, host: str) -> None:
        self.sent: list[str] = []
        impostor = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                impostor.sent.append(self.headers.get("authorization", ""))
                self.send_response(401)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        super().__init__((host, ADMIN_PORT), Handler)


@contextlib.contextmanager
def impostor(host: str) -> Iterator[Impostor]:
    with Impostor(host) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


def test_whoever_got_the_address_of_a_pod_is_sent_nothing_that_opens_another(
    cluster: Cluster, start_operator: StartOperator, namespace: str, tmp_path: Path
) -> None:
    with (
        start_operator("--namespace", namespace, "--observe-seconds", "1"),
        fleet(cluster, namespace, tmp_path, "a") as running,
        impostor(address()) as other,
    ):
        running.synced(1)
        running.pods.add("z", str(other.server_address[0]))
        sent = eventually(lambda: other.sent[-1])
        token = sent.removeprefix("Bearer ")
        assert len(token) == 64
        assert token not in tokens_in(secret_of(cluster, namespace))
        assert status_with(running, "a", token) == 401
        assert status_with(running, "a", tokens_in(secret_of(cluster, namespace))[0]) == 200
        assert document_of(cluster, namespace, "one")["revision"] == 1
