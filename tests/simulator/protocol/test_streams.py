"""Streams over a real socket: paced, whole, cut short by either side, and never at the cost of another."""

from __future__ import annotations

import json
import signal
import socket
import statistics
import subprocess
import threading
import time
from typing import Any

import httpx
import openai
import pytest

from .conftest import GHOSTFLEET, Serve, Served

TIMES = ("--time-to-first-token", "100ms", "--inter-token-latency", "20ms")
Message = dict[str, Any]


@pytest.fixture(scope="module")
def paced(serve: Serve) -> Served:
    """A server with room for few, at 100 ms and 20 ms."""
    return serve(*TIMES, "--max-num-seqs", "8", "--max-model-len", "4096", "--num-gpu-blocks-override", "1024")


@pytest.fixture(scope="module")
def instant(serve: Serve) -> Served:
    """A server without latency that echoes."""
    return serve("--mode", "echo", "--max-model-len", "65536", "--num-gpu-blocks-override", "65536")


def body(text: str = "Tell me a story", **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], **more}


def events(response: httpx.Response) -> list[tuple[float, Any]]:
    """Arrival times and parsed data of a stream; `[DONE]` stays a string."""
    found = []
    for line in response.iter_lines():
        if line:
            assert line.startswith("data: ")
            data = line.removeprefix("data: ")
            found.append((time.monotonic(), data if data == "[DONE]" else json.loads(data)))
    return found


def posted(path: str, payload: bytes) -> bytes:
    """A request as it goes over the wire, for clients that misbehave."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(payload)}\r\n\r\n".encode() + payload


def test_tokens_come_at_their_times_and_in_vllms_frames(paced: Served) -> None:
    """Role, tokens, finish and usage, each in its chunk; 100 ms to the first token and 20 ms between them."""
    request = body(stream=True, stream_options={"include_usage": True}, max_tokens=10, ignore_eos=True)
    began = time.monotonic()
    with httpx.stream("POST", f"{paced.url}/v1/chat/completions", json=request) as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["transfer-encoding"] == "chunked"
        found = events(response)
    chunks = [chunk for _, chunk in found]
    assert chunks[-1] == "[DONE]"
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert len(chunks) == 1 + 10 + 1 + 1
    assert [c["choices"][0]["finish_reason"] for c in chunks[:-2]] == [None] * 10 + ["length"]
    assert chunks[-2]["choices"] == []
    assert chunks[-2]["usage"]["completion_tokens"] == 10
    times = [at for at, _ in found[1:11]]
    assert 0.099 <= times[0] - began < 2
    # A shared machine may hold a reader up for long, so only the whole is bounded from above.
    assert 0.17 <= times[-1] - times[0] < 0.5


def test_the_openai_client_streams_and_counts(paced: Served) -> None:
    """The unmodified SDK reads both forms, and both endpoints; a seed repeats the answer."""
    client = openai.OpenAI(base_url=f"{paced.url}/v1", api_key="none")
    messages: list[Any] = [{"role": "user", "content": "Tell me a story"}]
    whole = client.chat.completions.create(model="m", messages=messages, max_tokens=12, seed=5)
    stream = client.chat.completions.create(model="m", messages=messages, max_tokens=12, seed=5, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == whole.choices[0].message.content
    assert whole.usage is not None
    assert 1 <= whole.usage.completion_tokens <= 12
    completion = client.completions.create(model="m", prompt="Once upon", max_tokens=7, extra_body={"ignore_eos": True})
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 7
    assert completion.choices[0].finish_reason == "length"
    assert [card.id for card in client.models.list()] == ["m"]
    with pytest.raises(openai.NotFoundError, match="The model `other` does not exist"):
        client.chat.completions.create(model="other", messages=messages)


def test_every_choice_of_every_prompt_is_streamed_under_its_index(instant: Served) -> None:
    """Two prompts, three answers each."""
    request = {"model": "m", "prompt": ["one two", "three four"], "n": 3, "stream": True, "max_tokens": 50}
    with httpx.stream("POST", f"{instant.url}/v1/completions", json=request) as response:
        chunks = [chunk for _, chunk in events(response)]
    texts = dict.fromkeys(range(6), "")
    for chunk in chunks[:-1]:
        choice = chunk["choices"][0]
        texts[choice["index"]] += choice["text"]
    assert texts == {0: "one two", 1: "one two", 2: "one two", 3: "three four", 4: "three four", 5: "three four"}


def test_text_of_any_script_survives_the_stream(instant: Served) -> None:
    """Characters that span tokens arrive whole, in a stream as in one piece."""
    text = 'Grüße, 世界! "quotes" \\ and 👩‍🚀🚀 ñandú\n\tend'
    whole = httpx.post(f"{instant.url}/v1/chat/completions", json=body(text)).json()
    assert whole["choices"][0]["message"]["content"] == text
    with httpx.stream("POST", f"{instant.url}/v1/chat/completions", json=body(text, stream=True)) as response:
        chunks = [chunk for _, chunk in events(response)]
    assert "".join(c["choices"][0]["delta"]["content"] for c in chunks[:-1]) == text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("include", "expected"), [(False, "one two "), (True, "one two three")])
def test_a_stop_string_ends_the_answer(instant: Served, stream: bool, include: bool, expected: str) -> None:
    """Before the string, or behind it; its tokens are counted up to the one that completed it, and no part leaks."""
    request = body(
        "one two three four five", stop=["three"], include_stop_str_in_output=include, stream=stream, max_tokens=64
    )
    if stream:
        request["stream_options"] = {"include_usage": True}
        with httpx.stream("POST", f"{instant.url}/v1/chat/completions", json=request) as response:
            chunks = [chunk for _, chunk in events(response)]
        text = "".join(c["choices"][0]["delta"]["content"] for c in chunks[:-2])
        choice, usage = chunks[-3]["choices"][0], chunks[-2]["usage"]
    else:
        answer = httpx.post(f"{instant.url}/v1/chat/completions", json=request).json()
        choice, usage = answer["choices"][0], answer["usage"]
        text = choice["message"]["content"]
    assert text == expected
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", "three")
    assert usage["completion_tokens"] < 10
    instant.until(running=0, kvUsage=0.0)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_is_aborted(paced: Served, stream: bool) -> None:
    """Its slot and blocks are free at once, and vLLM's counters do not move."""
    before = paced.until(running=0)["requests"]
    payload = json.dumps(body(stream=stream, max_tokens=2000, ignore_eos=True)).encode()
    with socket.create_connection(("127.0.0.1", paced.port)) as connection:
        connection.sendall(posted("/v1/chat/completions", payload))
        if stream:
            assert connection.recv(100).startswith(b"HTTP/1.1 200 OK")
        paced.until(running=1)
    state = paced.until(running=0, kvUsage=0.0)
    assert {k: v for k, v in state["requests"].items() if k in ("stop", "length", "abort")} == {
        k: v for k, v in before.items() if k in ("stop", "length", "abort")
    }


def test_requests_wait_for_a_slot(paced: Served) -> None:
    """The ninth of nine runs when one of eight has ended."""
    request = body(max_tokens=150, ignore_eos=True)
    finished: list[float] = []

    def ask() -> None:
        assert httpx.post(f"{paced.url}/v1/chat/completions", json=request, timeout=20).status_code == 200
        finished.append(time.monotonic())

    threads = [threading.Thread(target=ask) for _ in range(9)]
    for thread in threads:
        thread.start()
    paced.until(running=8, waiting=1)
    for thread in threads:
        thread.join()
    # The ninth cannot have begun before the first had ended, and then takes its three seconds.
    assert max(finished) - min(finished) > 2.5


def test_a_slow_reader_gets_merged_deltas_and_holds_up_nobody(instant: Served) -> None:
    """Its text is whole in the end, in fewer chunks than tokens; another stream runs through meanwhile."""
    text = "the quick brown fox jumps over the lazy dog " * 2000
    payload = json.dumps(
        {"model": "m", "prompt": text, "stream": True, "max_tokens": 40000, "stream_options": {"include_usage": True}}
    ).encode()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", instant.port))
        connection.sendall(posted("/v1/completions", payload))
        instant.until(running=1)
        other = httpx.post(f"{instant.url}/v1/chat/completions", json=body("hello"), timeout=10)
        assert other.json()["choices"][0]["message"]["content"] == "hello"
        instant.until(running=0)  # the engine is done long before the reader
        received = b""
        while part := connection.recv(1 << 16):
            received += part
    raw, rest = b"", received.split(b"\r\n\r\n", 1)[1]
    while rest:
        size, rest = rest.split(b"\r\n", 1)
        raw, rest = raw + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    frames = [frame.removeprefix(b"data: ") for frame in raw.split(b"\n\n") if frame]
    assert frames[-1] == b"[DONE]"
    chunks = [json.loads(frame) for frame in frames[:-1]]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks[:-1]) == text
    assert len(chunks) < chunks[-1]["usage"]["completion_tokens"] / 2


def test_latency_changes_live_while_a_stream_goes_on(serve: Serve) -> None:
    """A patch is in force for the next token; the open stream loses nothing."""
    served = serve(*TIMES)
    request = body(stream=True, max_tokens=30, ignore_eos=True)
    with httpx.stream("POST", f"{served.url}/v1/chat/completions", json=request) as response:
        lines = response.iter_lines()
        assert "assistant" in next(lines)
        patch = {"profile": {"simple": {"timeToFirstToken": "600ms", "interTokenLatency": "1ms"}}}
        answer = httpx.patch(f"{served.admin_url}/admin/config", json=patch)
        assert answer.status_code == 200, answer.text
        rest = [json.loads(line.removeprefix("data: ")) for line in lines if line and "[DONE]" not in line]
    assert len(rest) == 30
    assert rest[-1]["choices"][0]["finish_reason"] == "length"
    began = time.monotonic()
    httpx.post(f"{served.url}/v1/chat/completions", json=body(max_tokens=1))
    assert time.monotonic() - began >= 0.6


def test_sigterm_aborts_what_runs_and_says_so(serve: Serve) -> None:
    """vLLM's default: running requests end with finish reason `abort`, then the process ends with code 0."""
    served = serve(*TIMES)
    with httpx.stream("POST", f"{served.url}/v1/chat/completions", json=body(stream=True, max_tokens=3000)) as response:
        lines = response.iter_lines()
        assert "assistant" in next(lines)
        served.process.send_signal(signal.SIGTERM)
        rest = [line.removeprefix("data: ") for line in lines if line]
    assert rest[-1] == "[DONE]"
    assert json.loads(rest[-2])["choices"][0]["finish_reason"] == "abort"
    assert served.process.wait(10) == 0


def test_sigterm_lets_requests_end_within_the_shutdown_timeout(serve: Serve) -> None:
    """With `--shutdown-timeout` a running request ends as if nothing had happened; the server is not ready any more."""
    served = serve(*TIMES, "--shutdown-timeout", "10")
    request = body(stream=True, max_tokens=40, ignore_eos=True)
    with httpx.stream("POST", f"{served.url}/v1/chat/completions", json=request) as response:
        lines = response.iter_lines()
        assert "assistant" in next(lines)
        served.process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        assert httpx.get(f"{served.admin_url}/admin/ready").status_code == 503
        rest = [line.removeprefix("data: ") for line in lines if line]
    assert json.loads(rest[-2])["choices"][0]["finish_reason"] == "length"
    assert len(rest) == 41
    assert served.process.wait(10) == 0


def test_a_taken_port_is_one_line(serve: Serve, instant: Served) -> None:
    """No traceback, exit code 1."""
    command = [GHOSTFLEET, "serve", "--model", "m", "--host", "127.0.0.1", "--port", str(instant.port)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 1
    assert len(ended.stderr.strip().splitlines()) == 1
    assert f"port {instant.port}" in ended.stderr
    assert "in use" in ended.stderr


def test_a_short_stream_is_not_held_back_by_the_kernel(instant: Served) -> None:
    """Its few small segments leave at once; Nagle's algorithm would make each wait 40 ms for an acknowledgement."""
    request = body("one", stream=True, max_tokens=1)
    times = []
    with httpx.Client() as client:
        for _ in range(21):
            began = time.monotonic()
            assert client.post(f"{instant.url}/v1/chat/completions", json=request).text.endswith("data: [DONE]\n\n")
            times.append(time.monotonic() - began)
    assert statistics.median(times) < 0.03
