"""The admin API over a real server: what it answers, to whom, and what it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ghostfleet_simulator.api.admin import LARGEST_BODY, build_admin
from ghostfleet_simulator.bearer import Bearer, bound
from ghostfleet_simulator.config import Endpoint, FailureType, ServerConfig
from ghostfleet_simulator.document import Document, live_hash, restart_hash
from ghostfleet_simulator.problems import validated
from ghostfleet_simulator.runtime.clock import VirtualClock
from ghostfleet_simulator.runtime.replica import Replica
from ghostfleet_simulator.runtime.server import SimulatedServer
from ghostfleet_simulator.text.tokenizer import Tokenizer

POD = ("one-5d4f8c7b9-a", "10.0.0.7")


def _config(latency: Any = 20, **blocks: Any) -> ServerConfig:
    raw = {"model": {"name": "m"}, "profile": {"simple": {"interTokenLatency": latency}}, **blocks}
    return validated(ServerConfig, raw)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer()


@pytest.fixture
def server(tokenizer: Tokenizer) -> SimulatedServer:
    server = SimulatedServer(_config(), document=Document.of(_config(), 7), tokenizer=tokenizer, clock=VirtualClock())
    server.start()
    return server


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text("s3cret\n")
    return file


def _client(server: SimulatedServer, token_file: Path | None = None, token: str = "") -> httpx.AsyncClient:
    bearer = Bearer(token_file, *POD) if token_file else None
    transport = httpx.ASGITransport(build_admin(Replica(server.config, [server]), bearer), raise_app_exceptions=False)
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return httpx.AsyncClient(transport=transport, base_url="http://admin", headers=headers)


@pytest.fixture
async def admin(server: SimulatedServer) -> AsyncIterator[httpx.AsyncClient]:
    async with _client(server) as client:
        yield client


def _put(document: Document) -> dict[str, Any]:
    return document.to_json()


# --- configuration -------------------------------------------------------------------------------


async def test_the_document_in_force_is_told_as_it_was_given(admin: httpx.AsyncClient) -> None:
    answer = await admin.get("/admin/config")
    assert answer.status_code == 200
    assert Document.parse(answer.json()) == Document.of(_config(), 7)


async def test_a_newer_document_is_in_force_when_it_is_answered(
    admin: httpx.AsyncClient, server: SimulatedServer
) -> None:
    failures = [{"type": "RateLimit", "probability": "1"}]
    answer = await admin.put("/admin/config", json=_put(Document.of(_config(30, failures=failures), 8)))
    assert answer.status_code == 200
    body = answer.json()
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", body.pop("appliedAt"))
    assert body == {"revision": 8, "hash": live_hash(_config(30, failures=failures)), "pendingRestart": []}
    decided = server.faults.decide(Endpoint.CHAT, "m", lambda _: [])
    assert decided is not None
    assert decided.type is FailureType.RATE_LIMIT
    assert f'ghostfleet_profile_info{{hash="{body["hash"]}",revision="8"}} 1' in server.metrics.render().decode()


async def test_the_same_document_again_is_accepted_and_keeps_its_time(admin: httpx.AsyncClient) -> None:
    document = _put(Document.of(_config(30), 8))
    first = await admin.put("/admin/config", json=document)
    assert (await admin.put("/admin/config", json=document)).json() == first.json()


async def test_what_needs_a_restart_is_named(admin: httpx.AsyncClient, server: SimulatedServer) -> None:
    other = _config(30, scheduling={"maxNumSeqs": 9}, model={"name": "m", "maxModelLen": 64})
    answer = await admin.put("/admin/config", json=_put(Document.of(other, 8)))
    assert answer.json()["pendingRestart"] == ["model.maxModelLen", "scheduling.maxNumSeqs"]
    state = (await admin.get("/admin/state")).json()
    assert state["restartHash"] == restart_hash(server.config), "the server still runs what it was started with"


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (Document.of(_config(), 6), "revision 6 is older than revision 7, which is in force"),
        (Document.of(_config(30), 7), "revision 7 was first given with hash sha256:"),
    ],
)
async def test_a_document_that_may_not_replace_is_409(
    admin: httpx.AsyncClient, server: SimulatedServer, document: Document, words: str
) -> None:
    answer = await admin.put("/admin/config", json=_put(document))
    assert answer.status_code == 409
    assert words in answer.json()["error"]["message"]
    assert server.in_force.document == Document.of(_config(), 7)


@pytest.mark.parametrize(
    ("body", "path", "words"),
    [
        ({"config": {"model": {"nam": "m"}}}, "config.model.nam", "did you mean 'name'?"),
        ({"revision": 8, "config": {"model": {"name": "m"}, "seed": -1}}, "config.seed", "greater than or equal to 0"),
        ([], "", "a document is an object with the fields revision, hash and config"),
    ],
)
async def test_an_invalid_document_is_422_with_the_path_and_changes_nothing(
    admin: httpx.AsyncClient, server: SimulatedServer, body: object, path: str, words: str
) -> None:
    answer = await admin.put("/admin/config", json=body)
    assert answer.status_code == 422
    problems = answer.json()["error"]["problems"]
    assert any(problem["path"] == path and words in problem["message"] for problem in problems)
    assert answer.json()["error"]["message"].startswith(str(problems[0]["path"]))
    assert server.in_force.document == Document.of(_config(), 7)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff\xfe", b'{"revision": NaN}', b"[" * 100_000, b"9" * 5000, b'"\\ud800']
)
async def test_a_body_that_is_not_json_is_422(admin: httpx.AsyncClient, body: bytes) -> None:
    for method in ("PUT", "PATCH"):
        answer = await admin.request(method, "/admin/config", content=body)
        assert answer.status_code == 422
        assert answer.json()["error"]["message"].startswith("the body is ")


async def test_a_patch_changes_live_fields_until_the_original_is_put_again(
    admin: httpx.AsyncClient, server: SimulatedServer
) -> None:
    answer = await admin.patch("/admin/config", json={"profile": {"simple": {"interTokenLatency": "30ms"}}})
    assert (answer.status_code, answer.json()["revision"]) == (200, 7)
    assert answer.json()["hash"] == live_hash(_config(30)) == (await admin.get("/admin/state")).json()["hash"]
    answer = await admin.put("/admin/config", json=_put(Document.of(_config(), 7)))
    assert (answer.status_code, answer.json()["hash"]) == (200, live_hash(_config()))


@pytest.mark.parametrize(
    ("patch", "path", "words"),
    [
        ({"scheduling": {"maxNumSeqs": 1}}, "scheduling", "needs a restart and cannot be patched"),
        ({"profile": {"simple": {"interTokenLatncy": 1}}}, "profile.simple.interTokenLatncy", "did you mean"),
        ({"failures": [{"type": "RateLimit", "probability": "2"}]}, "failures[0].probability", "is not a probability"),
    ],
)
async def test_an_invalid_patch_is_422_with_the_path(
    admin: httpx.AsyncClient, patch: object, path: str, words: str
) -> None:
    answer = await admin.patch("/admin/config", json=patch)
    assert answer.status_code == 422
    (problem,) = answer.json()["error"]["problems"]
    assert problem["path"] == path
    assert words in problem["message"]


async def test_a_body_over_the_limit_is_413_without_being_read(admin: httpx.AsyncClient) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 10 * LARGEST_BODY:
            sent += 2**16
            yield b" " * 2**16

    assert (await admin.put("/admin/config", content=b" " * (LARGEST_BODY + 1))).status_code == 413
    answer = await admin.put("/admin/config", content=endless())
    assert answer.status_code == 413
    assert answer.json() == {"error": {"message": "the body is larger than 1048576 bytes"}}
    assert sent < 2 * LARGEST_BODY
    padded = json.dumps(_put(Document.of(_config(30), 8))).ljust(LARGEST_BODY).encode()
    assert (await admin.put("/admin/config", content=padded)).status_code == 200


async def test_a_document_that_cannot_be_kept_is_not_in_force(tokenizer: Tokenizer, tmp_path: Path) -> None:
    directory = tmp_path / "state"
    directory.mkdir()
    server = SimulatedServer(
        _config(),
        document=Document.of(_config(), 7),
        tokenizer=tokenizer,
        clock=VirtualClock(),
        live_file=directory / "live.json",
    )
    directory.rmdir()
    async with _client(server) as admin:
        answer = await admin.put("/admin/config", json=_put(Document.of(_config(30), 8)))
    assert answer.status_code == 500
    assert "could not be kept" in answer.json()["error"]["message"]
    assert str(directory) not in answer.text
    assert server.in_force.revision == 7


# --- state ---------------------------------------------------------------------------------------


async def test_the_state_tells_what_runs(admin: httpx.AsyncClient, server: SimulatedServer) -> None:
    server.metrics.on_fault(FailureType.RATE_LIMIT, "cmpl-1")
    state = (await admin.get("/admin/state")).json()
    assert 0 <= state.pop("uptimeSeconds") < 60
    requests = {
        **dict.fromkeys(("stop", "length", "abort", "error", "repetition"), 0),
        "preemptions": 0,
        "promptTokens": 0,
        "generationTokens": 0,
    }
    load = {"running": 0, "waiting": 0, "deferred": 0, "kvUsage": 0, "kvEvents": None, "kvTransfer": None}
    assert state == {
        "revision": 7,
        "hash": live_hash(_config()),
        "restartHash": restart_hash(_config()),
        "model": "m",
        "ready": True,
        "draining": False,
        "requests": {**requests, "fault": 1},
        "adapters": [],
        **load,
        "ranks": [{"rank": 0, "requests": requests, **load}],
    }


async def test_the_last_requests_are_told_newest_first(admin: httpx.AsyncClient, server: SimulatedServer) -> None:
    for number in range(3):
        server.metrics.on_fault(FailureType.RATE_LIMIT, f"cmpl-{number}")
    told = (await admin.get("/admin/requests")).json()["requests"]
    assert [request["id"] for request in told] == ["cmpl-2", "cmpl-1", "cmpl-0"]
    limited = (await admin.get("/admin/requests", params={"limit": 1})).json()["requests"]
    assert [request["id"] for request in limited] == ["cmpl-2"]


@pytest.mark.parametrize("limit", ["0", "257", "x"])
async def test_a_wrong_limit_is_422(admin: httpx.AsyncClient, limit: str) -> None:
    answer = await admin.get("/admin/requests", params={"limit": limit})
    assert answer.status_code == 422
    assert answer.json()["error"]["problems"][0]["path"] == "limit"


async def test_readiness_comes_with_the_start_and_goes_with_a_drain(tokenizer: Tokenizer) -> None:
    server = SimulatedServer(_config(), tokenizer=tokenizer, clock=VirtualClock())
    async with _client(server) as admin:
        answer = await admin.get("/admin/ready")
        assert (answer.status_code, answer.json()) == (503, {"ready": False, "reason": "starting"})
        server.start()
        answer = await admin.get("/admin/ready")
        assert (answer.status_code, answer.json()) == (200, {"ready": True})
        assert (await admin.post("/admin/drain")).status_code == 202
        answer = await admin.get("/admin/ready")
        assert (answer.status_code, answer.json()) == (503, {"ready": False, "reason": "draining"})
        assert (await admin.get("/admin/state")).json()["ready"] is False


# --- access and errors ---------------------------------------------------------------------------

_GUARDED = [
    ("GET", "/admin/config"),
    ("PUT", "/admin/config"),
    ("PATCH", "/admin/config"),
    ("GET", "/admin/state"),
    ("GET", "/admin/requests"),
    ("POST", "/admin/drain"),
]


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Bearer wrong", "s3cret", "Basic s3cret", "Bearer s"]
)
@pytest.mark.parametrize(("method", "path"), _GUARDED)
async def test_without_the_token_nothing_is_told_or_done(
    server: SimulatedServer, token_file: Path, method: str, path: str, header: str | None
) -> None:
    async with _client(server, token_file) as admin:
        headers = {} if header is None else {"authorization": header}
        answer = await admin.request(method, path, headers=headers, json={"answers": {"mode": "Echo"}})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert set(answer.json()["error"]) == {"message"}
    assert not server.draining
    assert server.in_force.document == Document.of(_config(), 7)


async def test_with_the_token_everything_is(server: SimulatedServer, token_file: Path) -> None:
    async with _client(server, token_file, "s3cret") as admin:
        assert (await admin.get("/admin/state")).status_code == 200
        assert (await admin.patch("/admin/config", json={"answers": {"mode": "Echo"}})).status_code == 200
        lower = {"authorization": "bearer s3cret"}
        assert (await admin.get("/admin/state", headers=lower)).status_code == 200


async def test_readiness_wants_no_token(server: SimulatedServer, token_file: Path) -> None:
    async with _client(server, token_file) as admin:
        assert (await admin.get("/admin/ready")).status_code == 200


async def test_a_replaced_token_is_read_again(server: SimulatedServer, token_file: Path) -> None:
    async with _client(server, token_file, "s3cret") as admin:
        assert (await admin.get("/admin/state")).status_code == 200
        replacement = token_file.with_name("new")
        replacement.write_text("fresh!")
        replacement.replace(token_file)
        assert (await admin.get("/admin/state")).status_code == 401
        fresh = {"authorization": "Bearer fresh!"}
        assert (await admin.get("/admin/state", headers=fresh)).status_code == 200


async def test_while_tokens_change_the_old_and_the_new_one_are_good(server: SimulatedServer, token_file: Path) -> None:
    """Several lines are several tokens, whatever the ends of the lines; one that is gone from the file is no longer."""
    token_file.write_bytes(b"newer\r\n s3cret\n\n")
    async with _client(server, token_file) as admin:

        async def status(token: str) -> int:
            return (await admin.get("/admin/state", headers={"authorization": f"Bearer {token}"})).status_code

        assert [await status(token) for token in ("newer", "s3cret", "newer s3cret", "", "older")] == [
            200,
            200,
            401,
            401,
            401,
        ]
        token_file.write_text("newer\n")
        assert [await status(token) for token in ("newer", "s3cret")] == [200, 401]


async def test_a_pod_takes_the_form_of_a_token_that_is_bound_to_it_and_to_no_other(
    server: SimulatedServer, token_file: Path
) -> None:
    """So an operator that still sends to the address of a pod that is gone gives nothing away."""
    name, address = POD
    wanted = {(name, address): 200, (name, "10.0.0.8"): 401, ("one-5d4f8c7b9-b", address): 401}
    async with _client(server, token_file) as admin:
        for pod, status in wanted.items():
            header = {"authorization": f"Bearer {bound(b's3cret', *pod)}"}
            assert (await admin.get("/admin/state", headers=header)).status_code == status, pod


@pytest.mark.parametrize("content", [None, "", " \n"])
async def test_a_missing_or_empty_token_opens_nothing(
    server: SimulatedServer, tmp_path: Path, content: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content)
    async with _client(server, file) as admin:
        for _ in range(3):
            assert (await admin.get("/admin/state", headers={"authorization": "Bearer "})).status_code == 401
    assert [record.message for record in caplog.records if "lets nobody in" in record.message] != []
    assert len([record for record in caplog.records if "lets nobody in" in record.message]) == 1


async def test_a_token_that_is_not_ascii_is_only_wrong(server: SimulatedServer, token_file: Path) -> None:
    async with _client(server, token_file) as admin:
        answer = await admin.get("/admin/state", headers={"authorization": b"Bearer \xc3\xa4"})
    assert answer.status_code == 401


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/admin", 404), ("DELETE", "/admin/config", 405), ("GET", "/openapi.json", 404)],
)
async def test_what_is_not_there_is_told_in_the_same_shape(
    admin: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    answer = await admin.request(method, path)
    assert answer.status_code == status
    assert path in answer.json()["error"]["message"]


async def test_a_failure_of_ours_shows_no_trace(
    admin: httpx.AsyncClient, server: SimulatedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise RuntimeError("inner workings")

    monkeypatch.setattr(server, "drain", broken)
    answer = await admin.post("/admin/drain")
    assert answer.status_code == 500
    assert answer.json() == {"error": {"message": "the server failed; its log says how"}}
