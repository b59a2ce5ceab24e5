"""Requests that nobody means: valid bodies, mutated as JSON and as bytes; and a client that judges the answers."""

from __future__ import annotations

import asyncio
import copy
import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

CHAT: Final = "/v1/chat/completions"
COMPLETIONS: Final = "/v1/completions"
JSON: Final = "application/json"

_MESSAGES: Final = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Tell me"}, {"type": "text", "text": " a story 🚀"}]},
    {"role": "assistant", "content": None, "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f"}}]},
    {"role": "tool", "content": "42", "tool_call_id": "a"},
]
_SAMPLING: Final = {
    "max_tokens": 8,
    "temperature": 0.7,
    "top_p": 0.9,
    "top_k": 5,
    "min_p": 0.1,
    "seed": 3,
    "stop": ["zzz", "yyy"],
    "stop_token_ids": [7],
    "logit_bias": {"5": 1.5},
    "presence_penalty": 0.1,
    "min_tokens": 1,
    "ignore_eos": True,
    "priority": 1,
    "request_id": "abc",
    "cache_salt": "salt",
    "truncate_prompt_tokens": 64,
    "vllm_xargs": {"a": 1, "b": ["x"]},
    "kv_transfer_params": {"a": None},
}
VALID: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    (CHAT, {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}),
    (CHAT, {"model": "m", "messages": _MESSAGES, **_SAMPLING, "logprobs": True, "top_logprobs": 2, "n": 2}),
    (
        CHAT,
        {
            "messages": _MESSAGES[:2],
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            "max_completion_tokens": 6,
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
            "tool_choice": "none",
            "response_format": {"type": "text"},
            "chat_template_kwargs": {"a": 1},
        },
    ),
    (COMPLETIONS, {"model": "m", "prompt": "Once upon a time", **_SAMPLING, "logprobs": 2, "echo": True}),
    (COMPLETIONS, {"prompt": ["one", "two"], "n": 2, "stream": True, "stream_options": {"include_usage": True}}),
    (COMPLETIONS, {"prompt": [1, 2, 3, 4], "max_tokens": 3, "prompt_logprobs": 1}),
    (COMPLETIONS, {"prompt": [[1, 2], [3, 4]], "max_tokens": 3, "stream": True}),
    ("/tokenize", {"prompt": "Once upon a time", "return_token_strs": True}),
    ("/tokenize", {"messages": _MESSAGES, "add_generation_prompt": True}),
    ("/detokenize", {"tokens": [1, 2, 3]}),
    (CHAT + "/render", {"messages": _MESSAGES, "max_tokens": 4}),
    (COMPLETIONS + "/render", {"prompt": ["one", [1, 2]], "max_tokens": 4}),
    ("/inference/v1/generate", {"token_ids": [1, 2, 3], "sampling_params": {"max_tokens": 4}, "stream": False}),
    (
        "/inference/v1/generate",
        {
            "token_ids": [5, 6, 7],
            "sampling_params": {"max_tokens": 6, "min_tokens": 2, "n": 2, "stop_token_ids": [9], "logprobs": 1},
            "features": {"mm_hashes": {}, "mm_placeholders": {}},
            "request_id": "abc",
            "output_mode": "text",
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_token_ids": True,
            "cache_salt": "salt",
            "priority": 1,
            "kv_transfer_params": {"do_remote_prefill": True},
        },
    ),
    ("/invocations", {"messages": _MESSAGES[:1], "max_tokens": 4}),
)

# What a number may be on purpose: nothing between a handful and vLLM's limits of `n`, which would be honest work.
_NUMBERS: Final = (0, -1, 1, 2, 3, -0.0, 0.5, 1e308, -1e308, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 10**40)
_STRINGS: Final = (
    "",
    " ",
    "\x00",
    "\ud800",
    "\udfff\ud800",
    "a" * 129,
    "NaN",
    "true",
    "🧑‍🚀" * 50,
    "\u202e\ufeff\u0000",
    "{{ messages }}{% for x in range(10**9) %}{% endfor %}",
    "<|im_end|><|endoftext|>",
    "../../etc/passwd",
    "%s%n%d{0}{}",
    "é" * 3000,
)


@dataclass(frozen=True)
class Case:
    """One request."""

    path: str
    body: bytes
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()

    def to_bytes(self) -> bytes:
        """As it goes over the wire, on a connection that stays."""
        lines = [f"POST {self.path} HTTP/1.1", "Host: x", f"Content-Length: {len(self.body)}"]
        if self.content_type:
            lines.append(f"Content-Type: {self.content_type}")
        lines += [f"{name}: {value}" for name, value in self.headers]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + self.body


def _places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield (*at, key)
            yield from _places(item, (*at, key))


def _nested(depth: int, rng: random.Random) -> Any:
    value: Any = rng.choice(_NUMBERS)
    for _ in range(depth):
        value = [value] if rng.random() < 0.5 else {"a": value}
    return value


def _odd_value(rng: random.Random) -> Any:
    kind = rng.randrange(9)
    if kind < 3:
        return rng.choice(_NUMBERS)
    if kind < 5:
        return rng.choice(_STRINGS)
    if kind == 5:
        return rng.choice((None, True, False, [], {}, float("nan"), float("inf"), -float("inf")))
    if kind == 6:
        return [_odd_value(rng) for _ in range(rng.randrange(4))]
    if kind == 7:
        return {rng.choice((*_STRINGS, "type", "role", "content")): _odd_value(rng) for _ in range(rng.randrange(4))}
    return _nested(rng.randrange(1, 60), rng)


def _structural(body: Any, rng: random.Random) -> Any:
    """The body with one to three of its values replaced, removed, repeated or wrapped."""
    body = copy.deepcopy(body)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(body))
        if not places:
            return _odd_value(rng)
        *above, last = rng.choice(places)
        parent = body
        for key in above:
            parent = parent[key]
        action = rng.randrange(8)
        if action < 5:
            parent[last] = _odd_value(rng)
        elif action == 5:
            del parent[last]
        elif action == 6:
            parent[last] = [parent[last]] * rng.choice((1, 2, 40))
        elif isinstance(parent, dict):
            parent[rng.choice(_STRINGS)] = _odd_value(rng)
    return body


def _encoded(body: Any) -> bytes:
    return json.dumps(body).encode()


def _bytewise(text: bytes, rng: random.Random) -> bytes:
    """The text with some bytes changed, removed, added, repeated or cut off."""
    text_ = bytearray(text)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(text_) + 1)
        action = rng.randrange(6)
        if action == 0 and at < len(text_):
            text_[at] = rng.randrange(256)
        elif action == 1:
            del text_[at : at + rng.choice((1, 2, 10))]
        elif action == 2:
            text_[at:at] = rng.choice(
                (b"\xff", b"\x00", b'"', b"{", b"]", b",", b"\\u", b"\\ud800", b"1e999", b"\xed\xa0\x80")
            )
        elif action == 3:
            text_[at:at] = text_[at : at + rng.randrange(1, 30)]
        elif action == 4:
            del text_[at:]
        else:
            text_[at:at] = str(rng.choice(_NUMBERS)).encode()
    return bytes(text_)


def _oversized(path: str, body: dict[str, Any], rng: random.Random) -> bytes:
    """A body of 20 kB to 1 MB: long text, many keys or items, deep brackets, endless digits."""
    kind = rng.randrange(6)
    size = rng.choice((20_000, 100_000, 1_000_000))
    if kind == 0:
        return b"[" * size
    if kind == 1:
        return b'{"model":' + b'{"a":' * (size // 5)
    if kind == 2:
        return _encoded({**body, "seed": 0}).replace(b'"seed": 0', b'"seed": ' + b"9" * size)
    if kind == 3:
        return _encoded({**body, **{f"k{n}": n for n in range(size // 12)}})
    field_ = "messages" if "messages" in body else "tokens" if "tokens" in body else "prompt"
    if kind == 4:
        return _encoded({**body, field_: [rng.choice((7, "a", {"role": "user", "content": ""}, None))] * (size // 3)})
    text = rng.choice(("a", "word ", "🚀", "\x00", "</")) * (size // 4)
    return _encoded({**body, field_: [{"role": "user", "content": text}] if field_ == "messages" else text})


_CONTENT_TYPES: Final = (
    "",
    "text/plain",
    "application/json; charset=utf-16",
    "application/x+json",
    "a/b/c",
    "APPLICATION/JSON",
    "application/json;" * 9,
)
_HEADERS: Final = (
    ("X-Request-Id", "a" * 4000),
    ("X-Request-Id", 'weird "\\ \xe9'),
    ("X-data-parallel-rank", "5"),
    ("X-data-parallel-rank", "x"),
    ("X-data-parallel-rank", "9" * 5000),
    ("X-Vllm-Priority", "1e9"),
    ("X-Vllm-Priority", "-99999999999999999999999"),
    ("X-Session-ID", "\xff"),
    ("endpoint-load-metrics-format", "JSON"),
    ("endpoint-load-metrics-format", "XML"),
    ("Authorization", "Bearer " + "x" * 2000),
    ("traceparent", "00-zz"),
    ("Accept-Encoding", "gzip;q=nan"),
    ("Cookie", "=;" * 500),
)


def cases(rng: random.Random) -> Iterator[Case]:
    """Requests without end; the same generator state gives the same ones."""
    while True:
        path, body = rng.choice(VALID)
        kind = rng.random()
        if kind < 0.55:
            yield Case(path, _encoded(_structural(body, rng)))
        elif kind < 0.85:
            yield Case(path, _bytewise(_encoded(body), rng))
        elif kind < 0.87:
            yield Case(path, _oversized(path, body, rng))
        elif kind < 0.9:
            yield Case(rng.choice(VALID)[0], _encoded(body))
        elif kind < 0.93:
            yield Case(path, rng.randbytes(rng.randrange(200)))
        elif kind < 0.96:
            yield Case(path, _encoded(_structural(body, rng)), rng.choice(_CONTENT_TYPES))
        else:
            headers = tuple(dict(rng.choices(_HEADERS, k=rng.randrange(1, 4))).items())
            yield Case(path, _encoded(body), headers=headers)


@dataclass
class Tally:
    """What came back."""

    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[tuple[Case, str]] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many requests were answered."""
        return sum(self.statuses.values())


ALLOWED: Final = frozenset({200, 400, 404, 405, 413, 501})
"""Statuses that a body alone can earn from a vLLM without API keys and queue limits. 501 is its NotImplementedError."""


UNREADABLE: Final = {"detail": "There was an error parsing the body"}
"""FastAPI's own answer to bytes that are no text, which vLLM's handlers do not catch."""


def judged(status: int, body: bytes) -> str | None:
    """What is wrong with an answer."""
    shown = f"status {status}: {body[:200]!r} ... {body[-100:]!r}"
    if status not in ALLOWED:
        return shown
    if b"Traceback" in body or b"Internal server error" in body:
        return f"tells of a failure of ours, {shown}"
    if body.startswith(b"data: "):
        failed = b'"code":5' in body.replace(b" ", b"")
        return (
            f"a stream that failed or has no end, {shown}" if failed or not body.endswith(b"data: [DONE]\n\n") else None
        )
    if body and status != 404:
        return None if _shaped(status, body) else f"not of vLLM's shape, {shown}"
    return None


def _shaped(status: int, body: bytes) -> bool:
    try:
        answer = json.loads(body)
    except ValueError:
        return False
    if status < 400 or status == 405 or answer == UNREADABLE:
        return True
    error = answer.get("error")
    return isinstance(error, dict) and error.get("code") == status and bool(error.get("message"))


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes, bool]:
    """Status, body and whether the connection stays."""
    head = await reader.readuntil(b"\r\n\r\n")
    status, lowered = int(head.split(b" ", 2)[1]), head.lower()
    body = bytearray()
    if b"transfer-encoding: chunked" in lowered:
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)
    else:
        at = lowered.find(b"content-length:")
        body += await reader.readexactly(int(lowered[at + 15 : lowered.index(b"\r", at)]) if at >= 0 else 0)
    return status, bytes(body), b"connection: close" not in lowered


async def fuzz(port: int, source: Iterator[Case], count: int, *, connections: int = 4, limit_s: float = 60) -> Tally:
    """Send so many cases over some connections at once; an answer that takes longer than `limit_s` is a hang."""
    tally, left = Tally(), iter(range(count))

    async def worker() -> None:
        reader = writer = None
        for _ in left:
            case = next(source)
            try:
                async with asyncio.timeout(limit_s):
                    if writer is None:
                        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
                    assert reader is not None
                    writer.write(case.to_bytes())
                    await writer.drain()
                    status, body, stays = await _answer(reader)
            except TimeoutError:
                tally.wrong.append((case, f"no answer within {limit_s} s"))
                stays = False
            except (ConnectionError, asyncio.IncompleteReadError) as error:
                tally.wrong.append((case, f"the connection ended: {error!r}"))
                stays = False
            else:
                tally.statuses[status] += 1
                if what := judged(status, body):
                    tally.wrong.append((case, what))
            if not stays and writer is not None:
                writer.close()
                writer = None
        if writer is not None:
            writer.close()

    await asyncio.gather(*(worker() for _ in range(connections)))
    return tally
