"""Prefill/decode disaggregation between real servers: what goes over the wire, and what becomes of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from tests.hosted import Host
from tests.served import Server, free_port

Json = dict[str, Any]
PROMPT = list(range(500, 600))
BLOCKS = 7
"""Of 16 tokens."""
PREFILL = {
    "do_remote_decode": True,
    "do_remote_prefill": False,
    "remote_engine_id": None,
    "remote_block_ids": None,
    "remote_host": None,
    "remote_port": None,
}
FAST = ("--time-to-first-token", "1ms", "--inter-token-latency", "1ms", "--enable-prompt-tokens-details")
SLOW = ("--time-to-first-token", "60s", "--inter-token-latency", "1ms", "--enable-prompt-tokens-details")
"""One that computes no prompt itself within the time of a test."""


class Pair:
    """A server that prefills and one that decodes, and a router between them in a few lines."""

    def __init__(self, host: Host, connector: str = "NixlConnector", *flags: str, **settings: Any) -> None:
        self.port = free_port()
        self._connector, self._host = connector, host
        self.prefill = self.server("kv_producer", self.port, *FAST, *flags, **settings)
        self.decode = self.server("kv_consumer", free_port(), *SLOW, *flags, **settings)

    def server(self, role: str, port: int, *flags: str, **settings: Any) -> Server:
        config = {"kv_connector": self._connector, "kv_role": role} | settings
        ports = ("--kv-side-channel-port", str(port), "--kv-bootstrap-port", str(port))
        return self._host("--kv-transfer-config", json.dumps(config), *ports, *flags)

    def prefilled(self, **more: Any) -> Json:
        return post(self.prefill, kv_transfer_params=PREFILL, max_tokens=1, **more)

    def decoded(self, params: Json, **more: Any) -> Json:
        return post(self.decode, kv_transfer_params=params, **more)


@pytest.fixture
def pair(host: Host) -> Callable[..., Pair]:
    return lambda *args, **settings: Pair(host, *args, **settings)


def post(server: Server, status: int = 200, **body: Any) -> Json:
    body = {"prompt": PROMPT, "max_tokens": 3, "ignore_eos": True} | body
    answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=60)
    assert answer.status_code == status, answer.text
    told: Json = answer.json()
    return told


def value(server: Server, series: str, **labels: str) -> float:
    for line in httpx.get(f"{server.url}/metrics").text.splitlines():
        named = line.startswith(series) and line[len(series)] in " {"
        if named and all(f'{name}="{label}"' in line for name, label in labels.items()):
            return float(line.rpartition(" ")[2])
    raise AssertionError(f"no {series}")


def eventually(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


# --- NIXL ------------------------------------------------------------------------------------------


def test_the_parameters_that_the_prefilling_side_gives(pair: Callable[..., Pair]) -> None:
    made = pair(engine_id="left")
    told = made.prefilled()
    params = told["kv_transfer_params"]
    request = params.pop("remote_request_id")
    assert request.startswith(told["id"])
    assert params == {
        "do_remote_prefill": True,
        "do_remote_decode": False,
        "remote_block_ids": [list(range(1, BLOCKS + 1))],
        "remote_engine_id": "left",
        "remote_host": "127.0.0.1",
        "remote_port": made.port,
        "tp_size": 1,
        "dcp_size": 1,
        "pp_size": 1,
        "remote_num_tokens": len(PROMPT),
        "remote_blocks_expiry_time": None,
        "remote_registration_generation": 1,
        "transfer_mode": "pull",
        "remote_prefill_cached_tokens": 0,
    }
    assert made.prefill.state()["kvTransfer"]["held"] == 1
    assert made.prefill.state()["kvUsage"] == pytest.approx(BLOCKS / 16383)


@pytest.mark.parametrize(
    ("version", "absent", "blocks"),
    [
        ("0.12", {"remote_request_id", "remote_num_tokens", "dcp_size"}, list(range(1, BLOCKS + 1))),
        ("0.20", {"remote_num_tokens", "remote_blocks_expiry_time"}, [list(range(1, BLOCKS + 1))]),
        ("0.26", {"dcp_size", "transfer_mode", "remote_registration_generation"}, [list(range(1, BLOCKS + 1))]),
    ],
)
def test_they_follow_the_version(pair: Callable[..., Pair], version: str, absent: set[str], blocks: Any) -> None:
    made = pair("NixlConnector", "--vllm-version", version)
    params = made.prefilled()["kv_transfer_params"]
    assert not absent & params.keys()
    assert params["remote_block_ids"] == blocks
    assert made.decoded(params)["usage"]["completion_tokens"] == 3


def test_the_other_side_fetches_and_lets_go(pair: Callable[..., Pair]) -> None:
    made = pair()
    params = made.prefilled()["kv_transfer_params"]
    told = made.decoded(params)
    assert told["usage"]["completion_tokens"] == 3
    assert told["kv_transfer_params"] is None
    eventually(lambda: made.prefill.state()["kvTransfer"]["held"] == 0)
    assert made.prefill.state()["kvUsage"] == 0
    size = BLOCKS * 16 * 128 * 1024
    assert value(made.decode, "vllm:nixl_bytes_transferred_sum") == size
    assert value(made.decode, "vllm:nixl_xfer_time_seconds_count") == 1
    assert value(made.decode, "vllm:prompt_tokens_by_source_total", source="external_kv_transfer") == len(PROMPT)
    assert value(made.decode, "vllm:prompt_tokens_by_source_total", source="local_compute") == 0
    assert value(made.decode, "vllm:external_prefix_cache_hits_total") == len(PROMPT)
    assert value(made.decode, "vllm:prompt_tokens_cached_by_source_total", source="external_unspecified") == 100


def test_cached_tokens_are_those_of_the_side_that_prefills(pair: Callable[..., Pair]) -> None:
    made = pair()
    made.prefilled()
    params = made.prefilled()["kv_transfer_params"]
    assert params["remote_prefill_cached_tokens"] == 96
    assert made.decoded(params)["usage"]["prompt_tokens_details"]["cached_tokens"] == 96
    newest = httpx.get(f"{made.decode.admin_url}/admin/requests").json()["requests"][0]
    assert newest["cachedTokens"] == 96


def test_a_transfer_takes_its_time_and_shows_meanwhile(pair: Callable[..., Pair]) -> None:
    made = pair("NixlConnector", "--kv-transfer-bandwidth", "10M")  # 14.7 MB
    params = made.prefilled()["kv_transfer_params"]
    with ThreadPoolExecutor(1) as pool:
        began = time.monotonic()
        answer = pool.submit(made.decoded, params)
        stage = "vllm:num_requests_kv_fetch_by_stage"
        eventually(lambda: value(made.decode, stage, stage="in_progress") == 1)
        assert value(made.decode, "vllm:num_requests_waiting_by_reason", reason="deferred") == 1
        assert value(made.decode, "vllm:num_requests_running") == 0
        assert value(made.decode, "vllm:kv_cache_usage_perc") == pytest.approx(BLOCKS / 16383)
        answer.result()
    assert time.monotonic() - began >= 1.46
    assert value(made.decode, stage, stage="in_progress") == 0
    assert value(made.decode, "vllm:nixl_xfer_time_seconds_sum") >= 1.46


def test_a_lease_ends_without_heartbeats(pair: Callable[..., Pair]) -> None:
    made = pair("NixlConnector", "--kv-lease-duration", "500ms")
    params = made.prefilled()["kv_transfer_params"]
    eventually(lambda: value(made.prefill, "vllm:nixl_num_kv_expired_reqs_total") == 1)
    assert made.prefill.state()["kvUsage"] == 0
    # What vLLM does: memory that was given away is read all the same, and the other side notices.
    assert made.decoded(params)["usage"]["completion_tokens"] == 3
    eventually(lambda: value(made.prefill, "vllm:nixl_num_notifications_after_expiry_total") == 1)


def test_heartbeats_keep_it_while_the_other_side_has_no_slot(pair: Callable[..., Pair]) -> None:
    made = pair("NixlConnector", "--kv-lease-duration", "2s", "--max-num-seqs", "1")
    params = made.prefilled()["kv_transfer_params"]
    with ThreadPoolExecutor(2) as pool:
        busy = made.prefilled(prompt=list(range(900, 950)))["kv_transfer_params"]
        first = pool.submit(made.decoded, busy, prompt=list(range(900, 950)), max_tokens=5000)
        eventually(lambda: made.decode.state()["running"] == 1)
        second = pool.submit(made.decoded, params)
        time.sleep(3)
        assert value(made.decode, "vllm:num_requests_kv_fetch_by_stage", stage="waiting_to_start") == 1
        assert made.prefill.state()["kvTransfer"]["held"] == 1
        first.result()
        second.result()
    assert value(made.prefill, "vllm:nixl_num_kv_expired_reqs_total") == 0


def test_a_client_that_leaves_frees_the_other_side(pair: Callable[..., Pair]) -> None:
    made = pair("NixlConnector", "--kv-transfer-bandwidth", "10M")
    params = made.prefilled()["kv_transfer_params"]
    body = {"prompt": PROMPT, "max_tokens": 3, "kv_transfer_params": params}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{made.decode.url}/v1/completions", json=body, timeout=0.4)
    eventually(lambda: made.prefill.state()["kvTransfer"]["held"] == 0)
    eventually(lambda: made.decode.state()["kvUsage"] == 0)


# --- failures --------------------------------------------------------------------------------------


def nobody(params: Json) -> Json:
    return params | {"remote_port": free_port()}


def test_a_transfer_that_fails_fails_the_request(pair: Callable[..., Pair]) -> None:
    made = pair()
    params = nobody(made.prefilled()["kv_transfer_params"])
    error = post(made.decode, 500, kv_transfer_params=params)["error"]
    assert error == {"message": "Internal server error", "type": "InternalServerError", "param": None, "code": 500}
    assert value(made.decode, "vllm:nixl_num_failed_transfers_total") == 1
    assert value(made.decode, "vllm:request_success_total", finished_reason="error") == 1
    assert made.decode.state()["kvUsage"] == 0


def test_in_a_stream_it_is_an_error_frame(pair: Callable[..., Pair]) -> None:
    made = pair()
    params = nobody(made.prefilled()["kv_transfer_params"])
    body = {"prompt": PROMPT, "stream": True, "kv_transfer_params": params}
    answer = httpx.post(f"{made.decode.url}/v1/completions", json=body)
    frames = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert answer.status_code == 200
    assert json.loads(frames[0])["error"]["code"] == 500
    assert frames[1:] == ["[DONE]"]


def test_or_has_its_prompt_computed(pair: Callable[..., Pair]) -> None:
    made = pair(kv_load_failure_policy="recompute")
    made.decode = made.server("kv_consumer", free_port(), *FAST, kv_load_failure_policy="recompute")
    params = nobody(made.prefilled()["kv_transfer_params"])
    assert made.decoded(params)["usage"]["completion_tokens"] == 3
    assert value(made.decode, "vllm:prompt_tokens_by_source_total", source="local_compute") == len(PROMPT)


def test_a_server_of_another_kind_is_told_apart(pair: Callable[..., Pair], caplog: pytest.LogCaptureFixture) -> None:
    """A mock, or a vLLM: it answers, but not as one of ours."""
    made = pair()
    params = made.prefilled()["kv_transfer_params"] | {"remote_port": made.prefill.port}
    post(made.decode, 500, kv_transfer_params=params)
    assert "is no server of this kind" in caplog.text


def test_an_engine_of_another_name_is_told_apart(pair: Callable[..., Pair], caplog: pytest.LogCaptureFixture) -> None:
    made = pair()
    params = made.prefilled()["kv_transfer_params"] | {"remote_engine_id": "other"}
    post(made.decode, 500, kv_transfer_params=params)
    assert "not other" in caplog.text


@pytest.mark.parametrize("missing", ["remote_request_id", "remote_host", "remote_block_ids"])
def test_parameters_that_are_not_whole_are_not_used(
    pair: Callable[..., Pair], caplog: pytest.LogCaptureFixture, missing: str
) -> None:
    made = pair()
    made.decode = made.server("kv_consumer", free_port(), *FAST)
    params = made.prefilled()["kv_transfer_params"]
    del params[missing]
    made.decoded(params)
    assert value(made.decode, "vllm:prompt_tokens_by_source_total", source="local_compute") == len(PROMPT)
    assert "Got invalid KVTransferParams" in caplog.text


def injected(made: Pair, *failures: Json) -> None:
    answer = httpx.patch(f"{made.decode.admin_url}/admin/config", json={"failures": failures})
    assert answer.status_code == 200, answer.text


def test_a_transfer_can_be_made_to_fail(pair: Callable[..., Pair], caplog: pytest.LogCaptureFixture) -> None:
    """Live; the other side is not told, and has its blocks until the lease is over."""
    made = pair("NixlConnector", "--kv-lease-duration", "2s")
    injected(made, {"type": "KVTransferFailure"})
    post(made.decode, 500, kv_transfer_params=made.prefilled()["kv_transfer_params"])
    assert "failing the request: an injected failure" in caplog.text
    assert value(made.decode, "vllm:nixl_num_failed_transfers_total") == 1
    assert value(made.decode, "ghostfleet_faults_total", type="KVTransferFailure") == 1
    assert made.prefill.state()["kvTransfer"]["held"] == 1
    eventually(lambda: value(made.prefill, "vllm:nixl_num_kv_expired_reqs_total") == 1)
    injected(made)
    assert made.decoded(made.prefilled()["kv_transfer_params"])["usage"]["completion_tokens"] == 3


def test_a_share_of_transfers_fails(pair: Callable[..., Pair]) -> None:
    """Drawn from the seed, one draw for each."""
    made = pair("NixlConnector", "--seed", "1")
    injected(made, {"type": "KVTransferFailure", "probability": "50%"})
    statuses = []
    for _ in range(12):
        params = made.prefilled()["kv_transfer_params"]
        body = {"prompt": PROMPT, "max_tokens": 1, "kv_transfer_params": params}
        statuses.append(httpx.post(f"{made.decode.url}/v1/completions", json=body, timeout=60).status_code)
    assert set(statuses) == {200, 500}
    assert value(made.decode, "ghostfleet_faults_total", type="KVTransferFailure") == statuses.count(500)


def test_a_transfer_can_be_made_late(pair: Callable[..., Pair]) -> None:
    """Its request waits with its blocks, and the lease of the other side is prolonged meanwhile."""
    made = pair("NixlConnector", "--kv-lease-duration", "1s")
    injected(made, {"type": "KVTransferDelay", "duration": "2s"})
    params = made.prefilled()["kv_transfer_params"]
    began = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(made.decoded, params)
        eventually(lambda: value(made.decode, "vllm:num_requests_kv_fetch_by_stage", stage="in_progress") == 1)
        assert answer.result()["usage"]["completion_tokens"] == 3
    assert time.monotonic() - began >= 2
    assert value(made.prefill, "vllm:nixl_num_kv_expired_reqs_total") == 0


# --- both at once ----------------------------------------------------------------------------------


def both(made: Pair, prefill: Json, decode: Json) -> Json:
    """The two legs as a router of these sends them, the decoding one first."""
    with ThreadPoolExecutor(2) as pool:
        answer = pool.submit(post, made.decode, **decode)
        eventually(lambda: made.decode.state()["waiting"] == 1)
        post(made.prefill, **{"max_tokens": 1, **prefill})
        return answer.result()


def test_mooncake(pair: Callable[..., Pair]) -> None:
    made = pair("MooncakeConnector", engine_id="left")
    address = f"http://127.0.0.1:{made.port}"
    assert httpx.get(f"{address}/query").json() == {
        "0": {"engine_id": "left", "worker_addr": {"0": {"0": f"127.0.0.1:{made.port}"}}}
    }
    legs = {"do_remote_prefill": True, "do_remote_decode": False, "transfer_id": "xfer-1"}
    where = {"remote_bootstrap_addr": address, "remote_engine_id": "left"}
    told = both(
        made,
        {"kv_transfer_params": {"do_remote_decode": True, "do_remote_prefill": False, "transfer_id": "xfer-1"}},
        {"kv_transfer_params": legs | where},
    )
    assert told["usage"]["completion_tokens"] == 3
    assert value(made.decode, "vllm:mooncake_bytes_transferred_count") == 1
    eventually(lambda: made.prefill.state()["kvTransfer"]["held"] == 0)


def test_mooncake_s_bootstrap_on_the_port_of_the_api(host: Host) -> None:
    port = free_port()
    config = json.dumps({"kv_connector": "MooncakeConnector", "kv_role": "kv_producer"})
    made = host("--kv-transfer-config", config, "--kv-bootstrap-port", str(port), "--port", str(port))
    assert httpx.get(f"http://127.0.0.1:{port}/query").json().keys() == {"0"}
    assert made.state()["kvTransfer"]["sideChannelPort"] == port


def test_sglang(pair: Callable[..., Pair]) -> None:
    made = pair("SGLang")
    room = {"bootstrap_host": "127.0.0.1", "bootstrap_port": made.port, "bootstrap_room": 2**62 + 1}
    asked = room | {"max_tokens": 3, "stop": ["no such text"], "min_tokens": 2}
    assert both(made, asked, asked)["usage"]["completion_tokens"] == 3
    eventually(lambda: made.prefill.state()["kvTransfer"]["held"] == 0)
    totals = [server.state()["requests"] for server in (made.prefill, made.decode)]
    assert [told["length"] for told in totals] == [1, 1]
    # SGLang sends the same to both; the one that prefills stops after a token, or the other would wait for all of them.
    ends = [httpx.get(f"{server.admin_url}/admin/requests").json() for server in (made.prefill, made.decode)]
    assert [(told["requests"][0]["completionTokens"], told["requests"][0]["finishReason"]) for told in ends] == [
        (1, "length"),
        (3, "length"),
    ]


def test_offloading(pair: Callable[..., Pair]) -> None:
    made = pair("OffloadingConnector")
    told = both(
        made,
        {"kv_transfer_params": {"remote_decoder": {"kv_request_id": "r"}}},
        {
            "kv_transfer_params": {
                "remote_prefiller": {"kv_request_id": "r", "remote_host": "127.0.0.1", "remote_port": made.port}
            }
        },
    )
    assert told["usage"]["completion_tokens"] == 3
    assert value(made.decode, "vllm:prompt_tokens_cached_by_source_total", source="p2p") == len(PROMPT)


def test_a_prefill_that_is_given_up_fails_the_decoding_leg(pair: Callable[..., Pair]) -> None:
    made = pair("MooncakeConnector")
    made.prefill = made.server("kv_producer", port := free_port(), *SLOW)
    params = {
        "do_remote_prefill": True,
        "transfer_id": "x",
        "remote_bootstrap_addr": f"http://127.0.0.1:{port}",
        "remote_engine_id": None,
    }
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(post, made.decode, 500, kv_transfer_params=params)
        body = {"prompt": PROMPT, "kv_transfer_params": {"do_remote_decode": True, "transfer_id": "x"}}
        eventually(lambda: made.decode.state()["kvTransfer"]["fetching"] == 1)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{made.prefill.url}/v1/completions", json=body, timeout=1)
        answer.result()
    assert value(made.decode, "vllm:mooncake_num_failed_recvs_total") == 1


# --- without a connector ---------------------------------------------------------------------------


def test_a_server_without_a_connector_gives_no_parameters(host: Host) -> None:
    made = host(*FAST)
    assert post(made, kv_transfer_params=PREFILL)["kv_transfer_params"] is None
    assert made.state()["kvTransfer"] is None


# --- too little cached -----------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_cache_threshold(host: Host, stream: bool) -> None:
    """llm-d's shared storage: the decoding server is asked first, and declines what it has not enough of."""
    made = host(*FAST)
    body = {"prompt": PROMPT, "max_tokens": 3, "stream": stream, "cache_hit_threshold": 0.9}
    answer = httpx.post(f"{made.url}/v1/completions", json=body)
    first = json.loads(answer.text.splitlines()[0].removeprefix("data: "))
    assert first["choices"][0]["finish_reason"] == "cache_threshold"
    assert first["choices"][0]["text"] == ""
    post(made, cache_hit_threshold=0)
    assert post(made, cache_hit_threshold=0.9)["choices"][0]["finish_reason"] == "length"
    forced = {"X-Cache-Threshold-Finish-Reason": "true"}
    answer = httpx.post(f"{made.url}/v1/completions", json={"prompt": PROMPT}, headers=forced)
    assert answer.json()["choices"][0]["finish_reason"] == "cache_threshold"
    assert answer.json()["usage"]["completion_tokens"] == 0


def test_a_threshold_for_all_requests(host: Host) -> None:
    made = host(*FAST, "--global-cache-hit-threshold", "0.5")
    assert post(made)["choices"][0]["finish_reason"] == "cache_threshold"
    assert post(made, cache_hit_threshold=0)["choices"][0]["finish_reason"] == "length"


def test_a_decoding_server_that_declines_and_one_that_prefills(host: Host) -> None:
    """The requests of llm-d's sidecar in its mode shared-storage: decode first, then prefill elsewhere, then decode."""
    config = json.dumps({"kv_connector": "SharedStorageConnector", "kv_role": "kv_both"})
    decode, prefill = (host("--kv-transfer-config", config, *FAST) for _ in range(2))
    assert post(decode, cache_hit_threshold=0.8)["choices"][0]["finish_reason"] == "cache_threshold"
    assert post(prefill, cache_hit_threshold=0, max_tokens=1)["choices"][0]["finish_reason"] == "length"
    told = post(decode, cache_hit_threshold=0)
    assert told["choices"][0]["finish_reason"] == "length"
    # There is no storage that both would have: the documented limit.
    assert told["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert post(decode, cache_hit_threshold=0.8)["usage"]["completion_tokens"] == 3
