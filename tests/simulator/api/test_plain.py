"""A plain request is read as the declared models read it; what is not plain is left to them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.exceptions import HTTPException

from ghostfleet_simulator.api.errors import ApiError
from ghostfleet_simulator.api.facts import Facts
from ghostfleet_simulator.api.judging import judged_chat, judged_completion
from ghostfleet_simulator.api.plain import plain_work
from ghostfleet_simulator.config import Api, Endpoint, ModelSettings, ServerConfig
from ghostfleet_simulator.runtime.work import Work
from ghostfleet_simulator.text.tokenizer import Tokenizer
from ghostfleet_simulator.versions import conduct

LONGEST = 64
_FACTS = replace(
    Facts.of(
        ServerConfig(model=ModelSettings(name="org/base", served_names=("one", "two"), max_model_len=LONGEST)),
        Tokenizer(),
    ),
    new_id=lambda: "0123456789abcdef",
)
FACTS = [
    _FACTS,
    replace(_FACTS, conduct=conduct("0.31.0")),
    replace(
        _FACTS,
        settings=Api(enable_force_include_usage=True, return_tokens_as_token_ids=True, stream_interval=3),
    ),
]
"""Of servers that differ in what they make of a request."""


def chat(**fields: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": "Hello there"}], **fields}


def text(**fields: object) -> dict[str, object]:
    return {"prompt": "Hello there", **fields}


def declared(facts: Facts, body: bytes, endpoint: Endpoint, request_id: str | None) -> Work | str:
    """The work by the declared models, or what they refuse the request with."""
    headers = {"content-type": "application/json"} | ({} if request_id is None else {"x-request-id": request_id})
    judge = judged_chat if endpoint is Endpoint.CHAT else judged_completion
    try:
        judged = judge(facts, body, headers)
        facts.check_model(judged.model)
        work = judged.checked_work()
    except ApiError as error:
        return error.message
    except HTTPException as error:
        return error.detail
    return work if work.rejection is None else str(work.rejection)


def both(facts: Facts, body: Any, request_id: str | None = None) -> tuple[Work | None, Work | str]:
    endpoint = Endpoint.CHAT if "messages" in body else Endpoint.COMPLETIONS
    return both_of(facts, json.dumps(body).encode(), endpoint, request_id)


def both_of(
    facts: Facts, raw: bytes, endpoint: Endpoint, request_id: str | None = None
) -> tuple[Work | None, Work | str]:
    return plain_work(endpoint, raw, request_id, facts), declared(facts, raw, endpoint, request_id)


COMMON: list[dict[str, object]] = [
    {},
    {"model": "two", "max_tokens": 5, "temperature": 0, "stream": False},
    {"model": None, "stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    {"stream": True, "stream_options": {"include_usage": True}, "ignore_eos": True, "min_tokens": 3, "max_tokens": 4},
    {"seed": 1, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "presence_penalty": 1, "frequency_penalty": -1.5, "n": 1},
    {"seed": -1, "repetition_penalty": 1.1, "user": "somebody", "skip_special_tokens": True, "stop": None},
]


@pytest.mark.parametrize("facts", FACTS)
@pytest.mark.parametrize("fields", COMMON)
@pytest.mark.parametrize(
    "body",
    [
        chat(),
        chat(max_completion_tokens=7, logprobs=False),
        {"messages": [{"content": "Be brief.", "role": "system"}, {"role": "user", "content": ""}]},
        text(),
        text(echo=False, logprobs=None),
        {"prompt": [5, 6, 7]},
    ],
)
def test_what_clients_send_is_plain(facts: Facts, body: dict[str, object], fields: dict[str, object]) -> None:
    for request_id in (None, "", "mine"):
        plain, work = both(facts, body | fields, request_id)
        assert plain == work


FLOATS = st.sampled_from([None, 0, 0.0, 1e-6, 0.5, 1, 1.0, 2, 2.0, -2, -2.5, 3, 1e300, "1", True, []])
WHOLE = st.sampled_from([None, -2, -1, 0, 1, 2, 16, LONGEST - 1, LONGEST, LONGEST + 1, 2**63, 2.0, 2.5, "2", True, {}])
FLAGS = st.sampled_from([None, True, False, 0, "yes", []])
TEXTS = st.sampled_from(["", "a b c", "one", "two", "none", "<|im_end|>", "word " * 80, "\ud800", "é😀", None, 1, []])
OPTIONS = st.one_of(
    st.none(),
    st.just([]),
    st.dictionaries(st.sampled_from(["include_usage", "continuous_usage_stats", "other"]), FLAGS, max_size=3),
)
MESSAGE = st.dictionaries(st.sampled_from(["role", "content", "name", "tool_calls"]), TEXTS, max_size=3)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "model": TEXTS,
    **dict.fromkeys(["max_tokens", "max_completion_tokens", "min_tokens", "top_k", "seed", "n", "top_logprobs"], WHOLE),
    **dict.fromkeys(["stream", "ignore_eos", "echo", "logprobs", "skip_special_tokens", "use_beam_search"], FLAGS),
    **dict.fromkeys(
        ["temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty"], FLOATS
    ),
    **dict.fromkeys(["stop", "user", "request_id", "cache_salt", "suffix", "unknown"], TEXTS),
    "stream_options": OPTIONS,
}
BODIES = st.one_of(
    st.fixed_dictionaries(
        {"messages": st.one_of(st.lists(MESSAGE, max_size=3), TEXTS, st.just(chat()["messages"]))}, optional=FIELDS
    ),
    st.fixed_dictionaries(
        {"prompt": st.one_of(TEXTS, st.lists(st.one_of(WHOLE, TEXTS), max_size=3), st.just([5] * LONGEST))},
        optional=FIELDS,
    ),
)


@given(facts=st.sampled_from(FACTS), body=BODIES)
def test_nothing_is_read_otherwise_than_declared(facts: Facts, body: dict[str, Any]) -> None:
    plain, work = both(facts, body)
    assert plain is None or plain == work


@given(
    facts=st.sampled_from(FACTS), fields=st.fixed_dictionaries({}, optional=FIELDS), name=st.sampled_from(["", "mine"])
)
def test_nothing_beside_a_good_prompt_is_read_otherwise_than_declared(
    facts: Facts, fields: dict[str, Any], name: str
) -> None:
    """As above, with prompts that are mostly plain, so that each field is looked at."""
    for body in (chat(), text()):
        plain, work = both(facts, {**body, **fields}, name)
        assert plain is None or plain == work


@given(facts=st.sampled_from(FACTS), body=st.sampled_from([chat(model="one", user="me"), text(n=1)]), data=st.data())
def test_a_wrong_byte_is_not_read_otherwise_than_declared(
    facts: Facts, body: dict[str, Any], data: st.DataObject
) -> None:
    """Anywhere: bytes that are no UTF-8 can be in names of fields, too."""
    raw = bytearray(json.dumps(body).encode())
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    plain, work = both_of(facts, bytes(raw), Endpoint.CHAT if "messages" in body else Endpoint.COMPLETIONS)
    assert plain is None or plain == work
