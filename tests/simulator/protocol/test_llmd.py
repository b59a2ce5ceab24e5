"""A pod of llm-d-inference-sim with our program in it: its arguments and variables, what its scheduler sees of it."""

from __future__ import annotations

import subprocess
from typing import Any

import httpx
import msgspec
import zmq
from tests.served import GHOSTFLEET, Serve, clean_environment, free_port

POD = {
    "GHOSTFLEET_AS": "llm-d-inference-sim",
    "POD_NAME": "vllm-d-0",
    "POD_NAMESPACE": "ns",
    "POD_IP": "10.1.2.3",
    "PYTHONHASHSEED": "42",
}
PROMPT = "Hello my name is Andrew, I have a doctorate in rocket science, and I like interplanetary space exploration"


def test_a_decode_pod_as_a_scheduler_sees_it(serve: Serve) -> None:
    """The scheduler binds, the pod connects; events are arrays with the fields of vLLM 0.19."""
    context = zmq.Context()
    subscriber = context.socket(zmq.SUB)
    subscriber.subscribe(b"kv@")
    events = subscriber.bind_to_random_port("tcp://127.0.0.1")
    try:
        args = ["--mode=echo", "--enable-kvcache=true", "--kv-cache-size=1024", "--block-size=16", "--v=4", ""]
        args += [f"--zmq-endpoint=tcp://127.0.0.1:{events}", "--render-url=http://vllm-render:8082", "--max-loras", "2"]
        args += ["--lora-modules", '{"name": "food-review-1"}', "--enable-request-id-headers"]
        served = serve(*args, environment=POD)
        body = {"model": "m", "prompt": PROMPT}
        # What goes out before the connection stands is lost, as it is there.
        for attempt in range(100):
            answer = httpx.post(
                f"{served.url}/v1/completions",
                json=body | {"prompt": f"{attempt} {PROMPT}"},
                headers={"x-request-id": "r1"},
            )
            assert answer.status_code == 200, answer.text
            if subscriber.poll(300):
                break
        topic, _, payload = subscriber.recv_multipart()
        assert topic.decode() == f"kv@10.1.2.3:{served.port}@org/model"
        _, batch, rank = msgspec.msgpack.decode(payload)
        kind, hashes, _, tokens, block_size, lora_id, medium, lora_name, _ = batch[0]
        assert (kind, block_size, lora_id, medium, lora_name, rank) == ("BlockStored", 16, None, "GPU", None, 0)
        assert len(tokens) == 16 * len(hashes)
        assert all(isinstance(block_hash, int) for block_hash in hashes)
        answer = httpx.post(f"{served.url}/v1/completions", json=body, headers={"x-request-id": "r1"})
        choice = answer.json()["choices"][0]
        assert (choice["text"], choice["finish_reason"]) == (PROMPT, "stop")
        names = ("x-inference-pod", "x-inference-namespace", "x-inference-port", "x-request-id")
        assert [answer.headers[name] for name in names] == ["vllm-d-0", "ns", str(served.port), "r1"]
        usage: dict[str, Any] = httpx.post(f"{served.url}/v1/completions", json=body).json()["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] == usage["prompt_tokens"] // 16 * 16
        counts = [
            line.rpartition(" ")[2]
            for line in httpx.get(f"{served.url}/metrics").text.splitlines()
            if line.startswith("vllm:e2e_request_latency_seconds_count{")
        ]
        assert [count.isdecimal() for count in counts] == [True]  # a router's tests read it with Go's Atoi
    finally:
        context.destroy(linger=0)


def test_both_legs_of_a_split_request_as_a_sidecar_with_nixl_sends_them(serve: Serve) -> None:
    here = POD | {"POD_IP": "127.0.0.1"}
    prefill = serve("--mode=echo", environment=here)
    # One that computes no prompt itself within the time of a test.
    decode = serve("--mode=echo", "--time-to-first-token=1h", "--kv-cache-transfer-latency=30ms", environment=here)
    body = {"model": "m", "prompt": PROMPT}
    nothing = dict.fromkeys(("remote_engine_id", "remote_block_ids", "remote_host", "remote_port"))
    first = {"stream": False, "max_tokens": 1, "max_completion_tokens": 1, "min_tokens": 1}
    first["kv_transfer_params"] = {"do_remote_decode": True, "do_remote_prefill": False} | nothing
    headers = {"x-request-id": "r1"}
    told = httpx.post(f"{prefill.url}/v1/completions", json=body | first, headers=headers, timeout=60).json()
    params = told["kv_transfer_params"]
    assert (params["do_remote_prefill"], params["remote_host"]) == (True, "127.0.0.1")
    second = body | {"kv_transfer_params": params}
    answer = httpx.post(f"{decode.url}/v1/completions", json=second, headers=headers, timeout=60)
    assert (answer.status_code, answer.json()["choices"][0]["text"]) == (200, PROMPT)


def test_parameters_of_the_other_program_are_no_error(serve: Serve) -> None:
    """What llm-d-inference-sim gives for a prefill leg; nobody is there to be asked."""
    params = {"do_remote_decode": False, "do_remote_prefill": True, "remote_engine_id": "DUMMY_ID", "tp_size": 1}
    params |= {"remote_block_ids": ["DUMMY_ID"], "remote_host": "DUMMY", "remote_port": 1234}
    served = serve("--mode=echo", environment=POD)
    body = {"model": "m", "prompt": PROMPT, "kv_transfer_params": params}
    answer = httpx.post(f"{served.url}/v1/completions", json=body, timeout=120)
    assert (answer.status_code, answer.json()["choices"][0]["text"]) == (200, PROMPT)


def test_a_request_that_is_turned_back_for_what_is_not_cached(serve: Serve) -> None:
    served = serve("--enable-kvcache", "--global-cache-hit-threshold=0.9", environment=POD)
    body = {"model": "m", "prompt": PROMPT, "max_tokens": 3}
    own = body | {"cache_hit_threshold": 0, "ignore_eos": True}
    forced = {"X-Cache-Threshold-Finish-Reason": "true"}
    reasons = [
        httpx.post(f"{served.url}/v1/completions", json=sent, headers=headers, timeout=60).json()["choices"][0][
            "finish_reason"
        ]
        for sent, headers in ((body, {}), (own, {}), (own, forced))
    ]
    assert reasons == ["cache_threshold", "length", "cache_threshold"]


def test_what_is_not_the_same_is_in_the_log(serve: Serve) -> None:
    served = serve("--force-dummy-tokenizer", "--omni", environment=POD)
    log = served.log.read_text()
    assert "--force-dummy-tokenizer: not needed: tokens come from the tokenizer" in log
    assert "--omni: missing: answers with images are not simulated yet" in log


def test_a_pod_that_is_wrong_ends_with_one_line_and_a_code() -> None:
    """It ends with 0 there."""
    ended = subprocess.run(
        [GHOSTFLEET, "--model=m", "--port", str(free_port()), "--max-num-seqs=0"],
        env=clean_environment() | POD,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr == "ghostfleet serve: --max-num-seqs: Input should be greater than or equal to 1\n"
