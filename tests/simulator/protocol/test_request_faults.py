"""Injected failures of single requests against a real process: what a client sees of each, and what others do not."""

from __future__ import annotations

import json
import re
import signal
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from .conftest import Serve, Served

CHAT = "/v1/chat/completions"
TIMES = ("--time-to-first-token", "20ms", "--inter-token-latency", "10ms")
ENTRY = dict[str, Any]


@pytest.fixture(scope="module")
def shared(serve: Serve) -> Served:
    """A server that takes a second for a hundred tokens."""
    return serve(*TIMES, "--max-model-len", "4096", "--num-gpu-blocks-override", "1024")


@pytest.fixture
def paced(shared: Served) -> Iterator[Served]:
    """The same, without a failure before and after."""
    yield shared
    inject(shared)
    shared.until(running=0)


def inject(served: Served, *failures: ENTRY, headers: bool = False) -> None:
    """Put failures in force, and nothing else."""
    patch = {"failures": list(failures), "failureHeaders": headers}
    answer = httpx.patch(f"{served.admin_url}/admin/config", json=patch)
    assert answer.status_code == 200, answer.text


def chat(stream: bool = True, tokens: int = 10, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Tell me a story"}]
    return {"model": "m", "messages": messages, "max_tokens": tokens, "ignore_eos": True, "stream": stream, **more}


def counted(served: Served, kind: str) -> int:
    """How often a failure happened, as the metrics tell."""
    text = httpx.get(f"{served.url}/metrics").text
    found = re.search(rf'^ghostfleet_faults_total{{type="{kind}"}} (\d+)$', text, re.MULTILINE)
    assert found, text
    return int(found[1])


@dataclass
class Raw:
    """What came by a raw socket: everything up to the end, how it ended, and when each part came."""

    data: bytes
    reset: bool
    arrivals: list[tuple[float, bytes]]

    @property
    def head(self) -> str:
        return self.data.partition(b"\r\n\r\n")[0].decode().lower()

    @property
    def body(self) -> bytes:
        """The body; chunks are put together as far as they came."""
        rest = self.data.partition(b"\r\n\r\n")[2]
        if "transfer-encoding: chunked" not in self.head:
            return rest
        body = b""
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            body += rest[: int(size, 16)]
            rest = rest[int(size, 16) + 2 :]
        return body

    @property
    def frames(self) -> list[str]:
        return [frame for frame in self.body.decode().split("\n\n") if frame]


@contextmanager
def sent(served: Served, body: ENTRY | None, path: str = CHAT, **headers: str) -> Iterator[socket.socket]:
    """A socket on which one request was sent; a GET without a body."""
    payload = b"" if body is None else json.dumps(body).encode()
    lines = [f"{'GET' if body is None else 'POST'} {path} HTTP/1.1", "Host: x", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += ["Content-Type: application/json", f"Content-Length: {len(payload)}", "", ""]
    with socket.create_connection(("127.0.0.1", served.port)) as link:
        link.sendall("\r\n".join(lines).encode() + payload)
        yield link


def received(link: socket.socket, before: bytes = b"", seconds: float = 10) -> Raw:
    """All that comes until the other side ends, behind what came `before`."""
    link.settimeout(seconds)
    arrivals: list[tuple[float, bytes]] = [(time.monotonic(), before)] if before else []
    reset = False
    while True:
        try:
            data = link.recv(65536)
        except ConnectionResetError:
            reset = True
            break
        if not data:
            break
        arrivals.append((time.monotonic(), data))
    return Raw(b"".join(data for _, data in arrivals), reset, arrivals)


def asked(served: Served, body: ENTRY | None, path: str = CHAT, **headers: str) -> Raw:
    with sent(served, body, path, **headers) as link:
        return received(link)


def silence(link: socket.socket, seconds: float) -> bytes:
    """What comes within a time; the connection must still be open at its end."""
    end, data = time.monotonic() + seconds, b""
    while (left := end - time.monotonic()) > 0:
        link.settimeout(left)
        try:
            part = link.recv(65536)
        except TimeoutError:
            break
        assert part, "the connection ended"
        data += part
    return data


def tokens_in(raw: Raw) -> int:
    """Chunks of a stream that hold text."""
    chunks = [json.loads(frame.removeprefix("data: ")) for frame in raw.frames if frame.endswith("}")]
    return sum(bool(chunk["choices"][0]["delta"].get("content")) for chunk in chunks)


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "more", "status", "retry"),
    [
        ("RateLimit", {}, 429, "1"),
        ("RateLimit", {"retryAfter": "90s"}, 429, "90"),
        ("ServerError", {"retryAfter": "1500ms"}, 503, "2"),
        ("InvalidAPIKey", {}, 401, None),
        ("ContextLength", {}, 400, None),
        ("InvalidRequest", {}, 400, None),
        ("ModelNotFound", {}, 404, None),
        ("HTTPError", {"status": 502, "message": "Bad gateway, says the test"}, 502, None),
        ("HTTPError", {"status": 503, "retryAfter": "0"}, 503, "0"),
    ],
)
def test_an_error_has_its_status_and_says_when_to_come_back(
    paced: Served, kind: str, more: ENTRY, status: int, retry: str | None
) -> None:
    """`Retry-After` comes with 429 and 503 and nothing else; the error is named and counted."""
    inject(paced, {"type": kind, **more})
    before = counted(paced, kind)
    response = httpx.post(f"{paced.url}{CHAT}", json=chat())
    assert response.status_code == response.json()["error"]["code"] == status
    assert response.headers.get("retry-after") == retry
    assert response.headers["x-ghostfleet-fault"] == kind
    assert more.get("message", "") in response.json()["error"]["message"]
    assert counted(paced, kind) == before + 1


# --- hang and stall ------------------------------------------------------------------------------


def test_a_stream_hangs_before_its_first_token(paced: Served) -> None:
    """Headers come, then nothing for as long as it takes; what was produced meanwhile comes in one piece."""
    inject(paced, {"type": "Hang", "duration": "600ms"})
    began = time.monotonic()
    raw = asked(paced, chat(tokens=10))
    assert "x-ghostfleet-fault: hang" in raw.head
    assert raw.arrivals[0][1].endswith(b"\r\n\r\n"), "nothing but headers came at first"
    assert raw.arrivals[1][0] - began >= 0.6
    assert raw.arrivals[1][0] - raw.arrivals[0][0] > 0.3, "headers are not held back"
    assert raw.frames[-1] == "data: [DONE]"
    assert tokens_in(raw) == 1, "ten tokens in one chunk, as vLLM merges what was not fetched"


def test_a_whole_answer_hangs(paced: Served) -> None:
    """It comes after the time, complete."""
    inject(paced, {"type": "Hang", "duration": "600ms"})
    began = time.monotonic()
    response = httpx.post(f"{paced.url}{CHAT}", json=chat(stream=False))
    assert time.monotonic() - began >= 0.6
    assert response.headers["x-ghostfleet-fault"] == "Hang"
    assert response.json()["usage"]["completion_tokens"] == 10


def test_a_hang_without_end_lasts_until_the_client_leaves(paced: Served) -> None:
    """The engine holds slot and blocks while it produces, and an abort frees them at once."""
    inject(paced, {"type": "Hang"})
    with sent(paced, chat(tokens=2000)) as link:
        data = silence(link, 0.5)
        assert data.endswith(b"\r\n\r\n")
        assert b"data:" not in data
        state = paced.until(running=1)
        assert state["kvUsage"] > 0
    state = paced.until(running=0)
    assert state["kvUsage"] == 0


@pytest.mark.parametrize("kind", ["Hang", "Stall"])
def test_switching_off_lets_what_hangs_go_on(paced: Served, kind: str) -> None:
    """A stream that would be held for good ends as any other once the failure is not in force any more."""
    inject(paced, {"type": kind})
    with sent(paced, chat(tokens=5)) as link:
        before = silence(link, 0.3)
        inject(paced)
        assert received(link, before).frames[-1] == "data: [DONE]"


def test_a_stream_stalls_after_some_tokens_and_others_go_on(paced: Served) -> None:
    """Four tokens come in time, then a pause, then the rest; a stream beside it never pauses."""
    hit = [{"name": "x-hit"}]
    inject(paced, {"type": "Stall", "afterTokens": 4, "duration": "1200ms", "match": {"headers": hit}})
    with sent(paced, chat(tokens=20), **{"X-Hit": "yes"}) as stalled:
        raw = asked(paced, chat(tokens=40))
        gaps = [later - earlier for (earlier, _), (later, _) in zip(raw.arrivals, raw.arrivals[1:], strict=False)]
        assert max(gaps) < 0.9
        assert tokens_in(raw) == 40
        assert "x-ghostfleet-fault" not in raw.head
        found = received(stalled)
    assert "x-ghostfleet-fault: stall" in found.head
    chunks = [json.loads(frame[6:]) for frame in found.frames[:-1]]
    texts = [chunk["choices"][0]["delta"]["content"] for chunk in chunks]
    assert len([text for text in texts if text]) == 5, "four tokens, and all others in one"
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert found.frames[-1] == "data: [DONE]"


def test_a_stalled_stream_is_silent_for_its_time(paced: Served) -> None:
    """The gap between the last token before and the first after is the duration and what the token was due."""
    inject(paced, {"type": "Stall", "afterTokens": 3, "duration": "500ms"})
    with sent(paced, chat(tokens=300)) as link:
        raw = received(link)
    gaps = [later - earlier for (earlier, _), (later, _) in zip(raw.arrivals, raw.arrivals[1:], strict=False)]
    assert max(gaps) >= 0.49
    assert json.loads(raw.frames[-2][6:])["choices"][0]["finish_reason"] == "length"


def test_all_choices_of_a_request_stall_together(paced: Served) -> None:
    """Tokens are counted over all choices, and each of them ends as it should."""
    inject(paced, {"type": "Stall", "afterTokens": 6, "duration": "300ms"})
    raw = asked(paced, chat(tokens=15, n=3))
    chunks = [json.loads(frame[6:]) for frame in raw.frames[:-1]]
    ended = {c["choices"][0]["index"] for c in chunks if c["choices"][0]["finish_reason"] == "length"}
    assert ended == {0, 1, 2}
    assert raw.frames[-1] == "data: [DONE]"


def test_a_stall_changes_no_word(paced: Served) -> None:
    """The same request with the same seed says the same, stalled or not, with a stop string in what was held back."""
    texts = []
    for failure in ([], [{"type": "Stall", "afterTokens": 2, "duration": "200ms"}]):
        inject(paced, *failure)
        raw = asked(paced, chat(tokens=40, seed=11, stop=["zzzz", "."], ignore_eos=False))
        chunks = [json.loads(frame[6:]) for frame in raw.frames[:-1]]
        texts.append("".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks))
        assert chunks[-1]["choices"][0]["finish_reason"] in ("stop", "length")
    assert texts[0] == texts[1]
    assert texts[0]


def test_a_short_answer_stalls_before_its_end(paced: Served) -> None:
    """A failure that was announced happens, if need be in place of the last token."""
    inject(paced, {"type": "Stall", "afterTokens": 500, "duration": "400ms"})
    began = time.monotonic()
    raw = asked(paced, chat(tokens=3))
    assert time.monotonic() - began >= 0.4
    assert raw.frames[-1] == "data: [DONE]"


# --- reset and truncation ------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 5])
def test_a_stream_is_reset_after_some_tokens(paced: Served, after: int) -> None:
    """The client's socket gets a TCP reset, not an end; the tokens before it arrived."""
    inject(paced, {"type": "Reset", "afterTokens": after})
    raw = asked(paced, chat(tokens=50))
    assert raw.reset
    assert "x-ghostfleet-fault: reset" in raw.head
    assert tokens_in(raw) == after
    assert paced.until(running=0)["kvUsage"] == 0


def test_all_choices_of_a_request_break_off_together(paced: Served) -> None:
    """One frame is half there, of whatever choice; no choice ends and nothing of the request goes on."""
    inject(paced, {"type": "Truncate", "afterTokens": 7})
    raw = asked(paced, chat(tokens=15, n=3))
    assert raw.data.endswith(b"0\r\n\r\n")
    assert b'finish_reason":"length' not in raw.body
    paced.until(running=0)
    inject(paced, {"type": "Reset", "afterTokens": 7})
    raw = asked(paced, chat(tokens=15, n=3))
    assert raw.reset
    assert tokens_in(raw) == 7
    paced.until(running=0)


def test_a_whole_answer_is_a_reset(paced: Served) -> None:
    """Not a byte comes."""
    inject(paced, {"type": "Reset"})
    raw = asked(paced, chat(stream=False))
    assert (raw.data, raw.reset) == (b"", True)


@pytest.mark.parametrize("ending", [None, "Clean", "Close", "Reset"])
@pytest.mark.parametrize("after", [0, 3, 500])
def test_a_frame_is_cut_in_half(paced: Served, ending: str | None, after: int) -> None:
    """Whole frames, then half of one; the response ends properly, or the connection ends amid it."""
    inject(paced, {"type": "Truncate", "afterTokens": after, **({"ending": ending} if ending else {})})
    raw = asked(paced, chat(tokens=30))
    assert "x-ghostfleet-fault: truncate" in raw.head
    assert tokens_in(raw) == min(after, 29)
    last = raw.body.decode().rpartition("\n\n")[2]
    assert last.startswith("data: {")
    with pytest.raises(ValueError, match=r"delimiter|Unterminated|Expecting"):
        json.loads(last.removeprefix("data: "))
    assert raw.reset is (ending == "Reset")
    assert raw.data.endswith(b"\r\n0\r\n\r\n") is (ending in (None, "Clean"))
    paced.until(running=0)


@pytest.mark.parametrize("ending", ["Clean", "Close", "Reset"])
def test_a_whole_answer_is_cut_in_half(paced: Served, ending: str) -> None:
    """`Clean` declares the half, so only the JSON is broken; the others declare more than comes."""
    inject(paced, {"type": "Truncate", "ending": ending})
    raw = asked(paced, chat(stream=False))
    declared = int(re.findall(r"content-length: (\d+)", raw.head)[0])
    assert raw.body.startswith(b'{"id":')
    assert len(raw.body) == (declared if ending == "Clean" else declared // 2)
    assert raw.reset is (ending == "Reset")
    assert "x-ghostfleet-fault: truncate" in raw.head


def test_the_openai_client_sees_what_it_sees_of_a_broken_server(paced: Served) -> None:
    """A reset and a close are transport errors, a half frame ends in a parse error or a stream cut short."""
    client = openai.OpenAI(base_url=f"{paced.url}/v1", api_key="none", max_retries=0)
    for failure in ({"type": "Reset"}, {"type": "Truncate", "ending": "Close"}):
        inject(paced, failure)
        with pytest.raises((httpx.TransportError, openai.APIConnectionError)):
            stream(client)
    inject(paced, {"type": "Stall", "duration": "200ms"})
    assert len(stream(client)) > 1


def stream(client: openai.OpenAI) -> list[Any]:
    """All chunks of a stream by the SDK."""
    messages: list[Any] = [{"role": "user", "content": "Tell me a story"}]
    return list(client.chat.completions.create(model="m", messages=messages, max_tokens=10, stream=True))


@pytest.mark.parametrize("path", ["/v1/completions", "/inference/v1/generate", "/invocations"])
def test_every_way_to_generate_can_fail(paced: Served, path: str) -> None:
    """Errors, stalls, resets and halves, streamed and whole, wherever tokens come from."""
    body: ENTRY = {"model": "m", "prompt": "Once upon a time", "max_tokens": 12, "ignore_eos": True}
    if path == "/inference/v1/generate":
        body = {"token_ids": [9, 10, 11], "sampling_params": {"max_tokens": 12, "ignore_eos": True}}
    streamed = {**body, "stream": True}
    inject(paced, {"type": "RateLimit"})
    assert httpx.post(f"{paced.url}{path}", json=streamed).status_code == 429
    inject(paced, {"type": "Stall", "afterTokens": 4, "duration": "400ms"})
    whole = asked(paced, streamed, path)
    gaps = [later - earlier for (earlier, _), (later, _) in zip(whole.arrivals, whole.arrivals[1:], strict=False)]
    assert max(gaps) >= 0.39
    assert whole.frames[-1] == "data: [DONE]"
    inject(paced, {"type": "Reset", "afterTokens": 4})
    raw = asked(paced, streamed, path)
    assert raw.reset
    assert len(raw.frames) == 4
    inject(paced, {"type": "Truncate", "afterTokens": 4})
    raw = asked(paced, streamed, path)
    assert len(raw.frames) == 5
    assert "}" not in raw.frames[-1].rpartition(",")[2]
    assert raw.data.endswith(b"\r\n0\r\n\r\n")
    raw = asked(paced, body, path)
    with pytest.raises(ValueError, match=r"delimiter|Unterminated|Expecting"):
        json.loads(raw.body)
    inject(paced, {"type": "Hang", "duration": "400ms"})
    began = time.monotonic()
    assert httpx.post(f"{paced.url}{path}", json=body).headers["x-ghostfleet-fault"] == "Hang"
    assert time.monotonic() - began >= 0.4


# --- endpoints beside generation -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "endpoint"), [("/metrics", "Metrics"), ("/health", "Health"), ("/v1/models", "Models")]
)
def test_scrapes_and_probes_are_slow(paced: Served, path: str, endpoint: str) -> None:
    """The named endpoint answers late, generation and the admin API as ever."""
    inject(paced, {"type": "Hang", "duration": "1s", "match": {"endpoints": [endpoint]}})
    with sent(paced, None, path) as link:
        began = time.monotonic()
        assert paced.state()["ready"]
        assert asked(paced, chat(tokens=5)).frames[-1] == "data: [DONE]"
        served = time.monotonic()
        raw = received(link)
    assert raw.arrivals[0][0] > served
    assert raw.arrivals[0][0] - began >= 0.9
    assert raw.head.startswith("http/1.1 200")
    assert "x-ghostfleet-fault: hang" in raw.head


@pytest.mark.parametrize(("path", "endpoint"), [("/metrics", "Metrics"), ("/health", "Health")])
def test_a_scrape_that_hangs_ends_with_its_client(paced: Served, path: str, endpoint: str) -> None:
    """It never answers; when the scraper leaves, or the failure is switched off, nothing of it is left."""
    inject(paced, {"type": "Hang", "match": {"endpoints": [endpoint]}})
    open_files = Path(f"/proc/{paced.process.pid}/fd")
    before = len(list(open_files.iterdir()))
    for _ in range(3):
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(f"{paced.url}{path}", timeout=0.3)
    paced.until(running=0)
    assert len(list(open_files.iterdir())) <= before + 1, "the connections of scrapers that left are closed"
    with sent(paced, None, path) as link:
        assert silence(link, 0.3) == b""
        inject(paced)
        assert received(link).head.startswith("http/1.1 200")
    assert counted(paced, "Hang") >= 4


def test_other_endpoints_break_as_well(paced: Served) -> None:
    """Errors, resets and halves, each where it was asked for."""
    inject(
        paced,
        {"type": "ServerError", "match": {"endpoints": ["Health"]}},
        {"type": "Truncate", "match": {"endpoints": ["Metrics"]}},
        {"type": "Reset", "match": {"endpoints": ["Models"]}},
        {"type": "Truncate", "name": "version", "ending": "Close", "match": {"endpoints": ["Version"]}},
    )
    for path in ("/health", "/ping"):
        assert httpx.get(f"{paced.url}{path}").status_code == 503
    metrics = httpx.get(f"{paced.url}/metrics")
    assert metrics.status_code == 200
    assert "ghostfleet_wake_lateness_seconds" not in metrics.text, "the second half is missing"
    raw = asked(paced, None, "/v1/models")
    assert (raw.data, raw.reset) == (b"", True)
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{paced.url}/version")
    inject(paced, {"type": "HTTPError", "status": 502, "match": {"endpoints": ["Models", "Tokenize"]}})
    assert httpx.get(f"{paced.url}/v1/models").status_code == 502
    assert httpx.post(f"{paced.url}/tokenize", json={"prompt": "x"}).status_code == 502
    counts = httpx.get(f"{paced.url}/metrics").text
    assert 'http_requests_total{handler="/v1/models",method="GET",status="5xx"} 2' in counts
    assert 'http_requests_total{handler="/tokenize",method="POST",status="5xx"} 1' in counts
    assert asked(paced, chat(tokens=3)).frames[-1] == "data: [DONE]"


# --- headers -------------------------------------------------------------------------------------


def test_a_request_fails_as_it_asks_to_where_it_may(paced: Served) -> None:
    """llm-d-inference-sim's header gives its status, ours any failure; both do nothing unless they are switched on."""
    post = f"{paced.url}{CHAT}"
    for header in ({"X-Return-Error": "503"}, {"x-ghostfleet-inject": "RateLimit"}):
        assert httpx.post(post, json=chat(stream=False), headers=header).status_code == 200
    inject(paced, headers=True)
    response = httpx.post(post, json=chat(), headers={"X-Return-Error": "418"})
    assert response.status_code == 418
    message = "Simulated error triggered by X-Return-Error header (code 418)"
    assert response.json() == {"error": {"message": message, "type": "APIConnectionError", "param": None, "code": 418}}
    assert response.headers["x-ghostfleet-fault"] == "HTTPError"
    raw = asked(paced, chat(tokens=20), **{"x-ghostfleet-inject": "reset; afterTokens=7"})
    assert (tokens_in(raw), raw.reset) == (7, True)
    began = time.monotonic()
    raw = asked(paced, None, "/health", **{"x-ghostfleet-inject": "Hang; duration=300ms"})
    assert time.monotonic() - began >= 0.3
    assert httpx.post(post, json=chat(stream=False)).status_code == 200


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"X-Return-Error": "soon"}, "X-Return-Error: 'soon' is not an HTTP status from 400 to 599"),
        ({"X-Return-Error": "200"}, "X-Return-Error: '200' is not an HTTP status from 400 to 599"),
        ({"x-ghostfleet-inject": "Stal"}, "'Stal' is no failure of a request; did you mean 'Stall'?"),
        ({"x-ghostfleet-inject": "Unready"}, "'Unready' is no failure of a request; allowed are RateLimit"),
        ({"x-ghostfleet-inject": "Stall; after=3s"}, "after: cannot be set for a single request"),
        ({"x-ghostfleet-inject": "Stall; afterTokens"}, "'afterTokens' is not a field=value"),
        ({"x-ghostfleet-inject": "Hang; status=500"}, "status: means nothing for Hang, only for HTTPError"),
        ({"x-ghostfleet-inject": "Hang; duration=-1s"}, "duration: a duration cannot be negative"),
    ],
)
def test_a_header_that_asks_for_nonsense_is_told_so(paced: Served, header: dict[str, str], words: str) -> None:
    """400, and the message names the header and the field."""
    inject(paced, headers=True)
    response = httpx.post(f"{paced.url}{CHAT}", json=chat(), headers=header)
    assert response.status_code == 400
    assert words in response.json()["error"]["message"]


# --- the end -------------------------------------------------------------------------------------


def test_what_hangs_does_not_keep_a_server_from_stopping(serve: Serve) -> None:
    """SIGTERM aborts a stalled and a hanging stream, a finished one that is held, and a scrape, and ends in time."""
    served = serve(*TIMES)
    inject(
        served,
        {"type": "Hang", "match": {"headers": [{"name": "x-hang"}]}},
        {"type": "Stall", "match": {"headers": [{"name": "x-stall"}]}},
        {"type": "Hang", "name": "scrapes", "match": {"endpoints": ["Metrics"]}},
    )
    with (
        sent(served, chat(tokens=5000), **{"x-hang": "1"}) as hanging,
        sent(served, chat(tokens=5), **{"x-hang": "1"}) as produced,
        sent(served, chat(tokens=5000), **{"x-stall": "1"}) as stalled,
        sent(served, None, "/metrics") as scrape,
    ):
        before = {link: silence(link, 0.2) for link in (hanging, produced, stalled, scrape)}
        began = time.monotonic()
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(10) == 0
        assert time.monotonic() - began < 4.5, "uvicorn waits 5 s for answers that do not end"
        for link, reason in ((hanging, "abort"), (produced, "length"), (stalled, "abort")):
            raw = received(link, before[link])
            assert raw.frames[-1] == "data: [DONE]"
            assert json.loads(raw.frames[-2][6:])["choices"][0]["finish_reason"] == reason
        assert b"ghostfleet_faults_total" in received(scrape).data
    assert "Traceback" not in served.log.read_text()


def test_a_reader_that_leaves_hard_amid_a_stall_is_aborted(paced: Served) -> None:
    """A client's own reset during a stall frees its sequence."""
    inject(paced, {"type": "Stall"})
    with sent(paced, chat(tokens=3000)) as link:
        silence(link, 0.3)
        paced.until(running=1)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert paced.until(running=0)["kvUsage"] == 0
    log = paced.log.read_text()
    assert "Traceback" not in log
    assert "ASGI" not in log
