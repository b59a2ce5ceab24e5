"""What a checked request comes to, and every refusal of vLLM 0.33 between a well-formed body and the engine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial

import pytest

from ghostfleet_simulator.api import preflight
from ghostfleet_simulator.api.errors import ApiError
from ghostfleet_simulator.api.facts import Facts
from ghostfleet_simulator.api.requests import CHAT, COMPLETION
from ghostfleet_simulator.config import Api, ModelSettings, ServerConfig
from ghostfleet_simulator.runtime.work import Kind, Work
from ghostfleet_simulator.text.tokenizer import Tokenizer

LONGEST = 64


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer()


@pytest.fixture(scope="module")
def facts(tokenizer: Tokenizer) -> Facts:
    model = ModelSettings(name="org/base", served_names=("one", "two"), max_model_len=LONGEST)
    return Facts.of(ServerConfig(model=model), tokenizer)


def judge(facts: Facts, body: Mapping[str, object], headers: Mapping[str, str] | None = None) -> Work:
    raw = json.dumps(body).encode()
    if "messages" in body:
        return preflight.chat(CHAT.parse(raw, "application/json"), facts, headers or {})
    return preflight.completion(COMPLETION.parse(raw, "application/json"), facts, headers or {})


def chat(**fields: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": "Hello there"}], **fields}


def text(**fields: object) -> dict[str, object]:
    return {"prompt": "Hello there", **fields}


def ids(count: int, **fields: object) -> dict[str, object]:
    return {"prompt": [5] * count, **fields}


def refused(facts: Facts, body: Mapping[str, object]) -> ApiError:
    with pytest.raises(ApiError) as caught:
        judge(facts, body)
    return caught.value


def rejected(facts: Facts, body: Mapping[str, object], headers: Mapping[str, str] | None = None) -> str:
    error = judge(facts, body, headers).rejection
    assert isinstance(error, ApiError)
    assert (error.status, error.type) == (400, "BadRequestError")
    return error.message


# --- what comes out -------------------------------------------------------------------------------


def test_the_first_alias_is_answered_whatever_was_asked_for(facts: Facts) -> None:
    """Any alias, an empty name and no name at all mean the same model."""
    assert {judge(facts, chat(**model)).model for model in ({}, {"model": "two"}, {"model": ""}, {"model": None})} == {
        "one"
    }


def test_a_chat_becomes_one_prompt(facts: Facts, tokenizer: Tokenizer) -> None:
    """The template makes the prompt, parts become lines, and an echoing server would say the last message."""
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hello"}, {"type": "text", "text": "there"}]},
    ]
    work = judge(facts, {"messages": messages})
    (prompt,) = work.prompts
    plain = [messages[0], {"role": "user", "content": "Hello\nthere"}]
    assert prompt.token_ids == tokenizer.apply_chat_template(plain)
    assert (work.kind, work.role, prompt.echo, prompt.prefix) == (Kind.CHAT, "assistant", "Hello\nthere", "")


def test_tools_are_taken_where_the_model_may_choose(tokenizer: Tokenizer) -> None:
    """With `enableAutoToolChoice` they are part of the prompt; a choice that demands a call is not implemented."""
    tools = [{"type": "function", "function": {"name": "weather", "description": "Tells the weather of a city."}}]
    model = ModelSettings(name="org/base", max_model_len=512)
    strict = Facts.of(ServerConfig(model=model), tokenizer)
    lenient = Facts.of(ServerConfig(model=model, api=Api(enable_auto_tool_choice=True)), tokenizer)
    bare, with_tools = (judge(lenient, chat(**more)).prompts[0].token_ids for more in ({}, {"tools": tools}))
    assert len(with_tools) > len(bare)
    assert judge(strict, chat(tools=tools, tool_choice="none")).prompts[0].token_ids == with_tools
    for choice in ("required", {"type": "function", "function": {"name": "weather"}}):
        error = refused(lenient, chat(tools=tools, tool_choice=choice))
        assert (error.status, error.type) == (501, "NotImplementedError")


def test_special_tokens_are_added_where_the_field_says_so(facts: Facts, tokenizer: Tokenizer) -> None:
    """Completions add them by default, as vLLM's do."""
    assert judge(facts, text()).prompts[0].token_ids == tokenizer.encode("Hello there", add_special_tokens=True)
    bare = judge(facts, text(add_special_tokens=False))
    assert bare.prompts[0].token_ids == tokenizer.encode("Hello there", add_special_tokens=False)


@pytest.mark.parametrize(("prompt", "count"), [("a", 1), (["a", "b", "c"], 3), ([1, 2, 3], 1), ([[1, 2], [3]], 2)])
def test_the_four_forms_of_a_prompt(facts: Facts, prompt: object, count: int) -> None:
    """A text, texts, tokens, lists of tokens; choices number prompts times n."""
    work = judge(facts, {"prompt": prompt, "n": 2, "request_id": "x"})
    assert len(work.prompts) == count
    assert work.choices == 2 * count
    assert [p.id for p in work.prompts] == [f"cmpl-x-{index}" for index in range(count)]


def test_the_id_comes_from_the_header_then_from_the_body(facts: Facts) -> None:
    """X-Request-Id wins over `request_id`; without either it is 16 hex digits."""
    assert judge(facts, chat(request_id="b"), {"x-request-id": "h"}).id == "chatcmpl-h"
    assert judge(facts, chat(request_id="b")).id == "chatcmpl-b"
    assert judge(facts, chat(request_id="")).id == "chatcmpl-"
    made = judge(facts, text()).id
    assert len(bytes.fromhex(made.removeprefix("cmpl-"))) == 8


@pytest.mark.parametrize(("header", "priority"), [(None, 3), ("-7", -7), (" 8 ", 8), ("high", 3), ("1.5", 3), ("", 3)])
def test_the_priority_comes_from_the_header_then_from_the_body(facts: Facts, header: str | None, priority: int) -> None:
    """A header that is no whole number is passed over, as in vLLM."""
    headers = {} if header is None else {"x-vllm-priority": header}
    for body in (chat(priority=3), text(priority=3)):
        assert judge(facts, body, headers).priority == priority


def test_what_the_prefix_cache_must_know_is_passed_on(facts: Facts) -> None:
    for form in (chat, text):
        assert judge(facts, form()).cache_salt is None
        assert judge(facts, form(cache_salt="tenant")).cache_salt == "tenant"
        assert judge(facts, form()).reads_prefix_cache
        assert not judge(facts, form(prompt_logprobs=1)).reads_prefix_cache


@pytest.mark.parametrize(
    ("body", "asked", "most"),
    [
        (partial(chat), None, None),
        (partial(chat, max_tokens=7), 7, 7),
        (partial(chat, max_tokens=7, max_completion_tokens=9), 9, 9),
        (partial(chat, max_tokens=LONGEST), LONGEST, None),
        (partial(text), 16, 16),
        (partial(text, max_tokens=None), 16, 16),
        (partial(text, max_tokens=LONGEST), LONGEST, None),
    ],
)
def test_max_tokens_are_clamped_to_what_fits(
    facts: Facts, body: partial[dict[str, object]], asked: int | None, most: int | None
) -> None:
    """0.33 no longer refuses prompt plus answer beyond the context; a chat without a number gets all that is left."""
    prompt = judge(facts, body()).prompts[0]
    assert prompt.sampling.requested_max_tokens == asked
    assert prompt.sampling.max_tokens == (LONGEST - len(prompt.token_ids) if most is None else most)


def test_sampling_takes_over_what_ends_an_answer(facts: Facts) -> None:
    """Stop strings, stop tokens, floors and flags arrive as they were sent; seed -1 means none."""
    sampling = (
        judge(
            facts,
            chat(
                stop=["a", "b"],
                stop_token_ids=[3, 3, 4],
                min_tokens=2,
                ignore_eos=True,
                include_stop_str_in_output=True,
                skip_special_tokens=False,
                n=3,
                seed=-1,
            ),
        )
        .prompts[0]
        .sampling
    )
    assert (sampling.stop, sampling.stop_token_ids) == (("a", "b"), frozenset({3, 4}))
    assert (sampling.min_tokens, sampling.ignore_eos, sampling.include_stop_str_in_output) == (2, True, True)
    assert (sampling.skip_special_tokens, sampling.n, sampling.seed) == (False, 3, None)
    assert judge(facts, chat(stop="x")).prompts[0].sampling.stop == ("x",)
    assert judge(facts, chat(stop=None)).prompts[0].sampling.stop == ()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (None, (False, False)),
        ({}, (False, False)),
        ({"include_usage": True}, (True, False)),
        ({"include_usage": True, "continuous_usage_stats": True}, (True, True)),
        ({"continuous_usage_stats": True}, (False, False)),
    ],
)
def test_continuous_usage_needs_include_usage(facts: Facts, options: object, expected: tuple[bool, bool]) -> None:
    """vLLM ignores continuous_usage_stats on its own."""
    work = judge(facts, chat(stream=True, stream_options=options))
    assert (work.include_usage, work.continuous_usage) == expected


def test_a_completion_can_have_its_prompt_back(facts: Facts, tokenizer: Tokenizer) -> None:
    """`echo` puts the prompt's text before each answer; with max_tokens 0 it is all there is."""
    assert judge(facts, text(echo=True)).prompts[0].prefix == "Hello there"
    assert judge(facts, {"prompt": tokenizer.encode("Hello", False), "echo": True}).prompts[0].prefix == "Hello"
    only = judge(facts, text(echo=True, max_tokens=0))
    assert only.prompt_only
    assert only.prompts[0].sampling.max_tokens == 1


def test_a_chat_can_continue_its_last_message(facts: Facts) -> None:
    """`echo` repeats the last message if the answer has its role."""
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Well,"}]
    assert judge(facts, {"messages": messages, "echo": True}).prompts[0].prefix == "Well,"
    assert judge(facts, {"messages": messages[:1], "echo": True}).prompts[0].prefix == ""
    work = judge(facts, {"messages": messages[:1], "echo": True, "add_generation_prompt": False})
    assert (work.role, work.prompts[0].prefix) == ("user", "Hi")


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"truncate_prompt_tokens": 4}, [6, 7, 8, 9]),
        ({"truncate_prompt_tokens": 4, "truncation_side": "right"}, [0, 1, 2, 3]),
        ({"truncate_prompt_tokens": 20}, list(range(10))),
        ({"truncate_prompt_tokens": -1}, list(range(10))),
    ],
)
def test_prompts_can_be_cut(facts: Facts, fields: dict[str, object], kept: list[int]) -> None:
    """The last tokens are kept unless the side says otherwise."""
    assert judge(facts, {"prompt": list(range(10)), **fields}).prompts[0].token_ids == kept


def test_cutting_to_the_context_leaves_room_for_one_token(facts: Facts) -> None:
    """-1 means all that fits and one token to answer with."""
    prompt = judge(facts, ids(500, truncate_prompt_tokens=-1)).prompts[0]
    assert (len(prompt.token_ids), prompt.sampling.max_tokens) == (LONGEST - 1, 1)


# --- refusals with a status -----------------------------------------------------------------------


def test_an_unknown_model_is_not_found(facts: Facts) -> None:
    """404 with the aliases, before anything else about the request is looked at."""
    error = refused(facts, chat(model="three", temperature=9))
    assert (error.status, error.type, error.param) == (404, "NotFoundError", "model")
    assert error.message == "The model `three` does not exist. Valid aliases: one, two."


LIMIT = f"This model's maximum context length is {LONGEST} tokens. However, your prompt contains "
TOO_LONG = "which exceeds this limit even without any output tokens. Please reduce the length of the input prompt."

REFUSALS = [
    (
        ids(LONGEST + 2),
        f"{LIMIT}{LONGEST + 2} input tokens, {TOO_LONG} (parameter=input_tokens, value={LONGEST + 2})",
        "input_tokens",
    ),
    (
        ids(LONGEST + 1),
        f"{LIMIT}at least {LONGEST + 1} input tokens, {TOO_LONG} (parameter=input_tokens, value={LONGEST + 1})",
        "input_tokens",
    ),
    (
        {"prompt": "word " * 180},
        f"{LIMIT}at least {LONGEST + 1} input tokens, {TOO_LONG} (parameter=input_tokens, value={LONGEST + 1})",
        "input_tokens",
    ),
    (
        chat(max_tokens=LONGEST + 1),
        (
            f"max_tokens={LONGEST + 1} cannot be greater than max_model_len={LONGEST}. Please request fewer "
            "output tokens. "
            f"(parameter=max_tokens, value={LONGEST + 1})"
        ),
        "max_tokens",
    ),
    (
        chat(max_completion_tokens=LONGEST + 1, max_tokens=1),
        (
            f"max_completion_tokens={LONGEST + 1} cannot be greater than max_model_len={LONGEST}. Please request "
            "fewer output "
            f"tokens. (parameter=max_completion_tokens, value={LONGEST + 1})"
        ),
        "max_completion_tokens",
    ),
    (
        text(truncate_prompt_tokens=LONGEST + 1),
        (
            f"truncate_prompt_tokens={LONGEST + 1} cannot be greater than max_model_len = {LONGEST}. Please request a "
            "smaller "
            f"truncation size. (parameter=truncate_prompt_tokens, value={LONGEST + 1})"
        ),
        "truncate_prompt_tokens",
    ),
    *(
        (body, f"max_tokens must be at least 1, got {got}. (parameter=max_tokens, value={got})", "max_tokens")
        for body, got in (
            (chat(max_tokens=0), 0),
            (chat(max_tokens=-3), -3),
            (chat(max_completion_tokens=0, max_tokens=5), 0),
            (text(max_tokens=0), 0),
            (ids(LONGEST), 0),
        )
    ),
    (chat(min_tokens=5, max_tokens=4), "min_tokens must be less than or equal to max_tokens=4, got 5.", None),
    (chat(min_tokens=-1), "min_tokens must be greater than or equal to 0, got -1.", None),
    (
        chat(temperature=2.5),
        "temperature must be in [0, 2], got 2.5. (parameter=temperature, value=2.5)",
        "temperature",
    ),
    (
        chat(temperature=-1),
        "temperature must be non-negative, got -1.0. (parameter=temperature, value=-1.0)",
        "temperature",
    ),
    (
        text(temperature=float("nan")),
        "temperature must be a finite number, got nan. (parameter=temperature, value=nan)",
        "temperature",
    ),
    (chat(top_p=0), "top_p must be in (0, 1], got 0.0. (parameter=top_p, value=0.0)", "top_p"),
    (chat(top_p=1.5), "top_p must be in (0, 1], got 1.5. (parameter=top_p, value=1.5)", "top_p"),
    (chat(top_k=-2), "top_k must be 0 (disable), or at least 1, got -2.", None),
    (chat(min_p=1.5), "min_p must be in [0, 1], got 1.5.", None),
    (chat(presence_penalty=3), "presence_penalty must be in [-2, 2], got 3.0.", None),
    (chat(frequency_penalty=-3), "frequency_penalty must be in [-2, 2], got -3.0.", None),
    (chat(repetition_penalty=0), "repetition_penalty must be greater than zero, got 0.0.", None),
    (chat(n=0), "n must be at least 1, got 0.", None),
    (
        chat(n=16385),
        (
            "n must be at most 16384, got 16385. To increase this limit, set the VLLM_MAX_N_SEQUENCES environment "
            "variable."
        ),
        None,
    ),
    (chat(n=2, temperature=0), "n must be 1 when using greedy sampling, got 2.", None),
    (chat(stop=["a", ""]), "stop cannot contain an empty string.", None),
    (chat(stop=""), "stop cannot contain an empty string.", None),
    (chat(bad_words=["a", "a", ""]), "bad_words cannot contain an empty string. Got bad_words=['a', '']", None),
    (
        chat(logit_bias={"x": 1.0}),
        (
            "logit_bias contains key(s) that cannot be converted to integer token IDs: ['x'] "
            "(parameter=logit_bias, value=['x'])"
        ),
        "logit_bias",
    ),
    (
        chat(tools=[{"function": {"name": "f"}}]),
        '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set',
        None,
    ),
    (
        chat(tools=[{"function": {"name": "f"}}], tool_choice="required"),
        'tool_choice="required" requires --tool-call-parser to be set',
        None,
    ),
    (
        chat(tools=[{"function": {"name": "f"}}], tool_choice={"function": {"name": "f"}}),
        'tool_choice=function "f" requires --tool-call-parser to be set',
        None,
    ),
    (
        chat(chat_template="{{ messages }}"),
        (
            "Chat template is passed with request, but --trust-request-chat-template is not set. Refused request with "
            "untrusted chat template."
        ),
        None,
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}]}]},
        "one is not a multimodal model",
        None,
    ),
    (
        {"messages": [{"role": "user", "content": [{"text": "no type"}]}]},
        "Missing 'type' field in multimodal part. (parameter=type)",
        "type",
    ),
    ({"messages": [{"author": {"role": "user"}}]}, "'Message' object is not subscriptable", None),
    ({"prompt": []}, "You must pass at least one prompt (parameter=prompt)", "prompt"),
    (text(suffix="x"), "suffix is only supported for models with FIM completion rendering", "suffix"),
    (text(suffix="x", echo=True), "Echo is unsupported with suffix.", "suffix"),
    (text(stream=True, use_beam_search=True), "Streaming is not currently supported with beam search", None),
    (
        {"prompt_embeds": "AAAA"},
        "You must set `--enable-prompt-embeds` to input `prompt_embeds` (parameter=prompt_embeds)",
        "prompt_embeds",
    ),
]


@pytest.mark.parametrize(("body", "message", "param"), REFUSALS, ids=[message[:40] for _, message, _ in REFUSALS])
def test_refusals_before_anything_is_queued(
    facts: Facts, body: dict[str, object], message: str, param: str | None
) -> None:
    """Each is a 400 BadRequestError, streaming or not, in vLLM's words."""
    error = refused(facts, body)
    assert (error.status, error.type, error.message, error.param) == (400, "BadRequestError", message, param)


def test_a_text_beyond_all_measure_is_refused_by_its_characters(facts: Facts) -> None:
    """A text that could not fit even in the longest tokens is not tokenized at all."""
    characters = facts.max_prompt_chars + 1
    error = refused(facts, {"prompt": "x" * characters})
    assert error.message == (
        f"{LIMIT}{characters} characters (more than {facts.max_prompt_chars} characters, which is the upper bound for "
        f"{LONGEST} input tokens). Please reduce the length of the input prompt. "
        f"(parameter=input_text, value={characters})"
    )
    assert error.param == "input_text"


def test_the_first_thing_wrong_is_told(facts: Facts) -> None:
    """vLLM looks at n, penalties and temperature before it looks at max_tokens."""
    assert refused(facts, chat(temperature=5, max_tokens=0, n=0)).message.startswith("n must be")
    assert refused(facts, chat(temperature=5, max_tokens=0)).message.startswith("temperature must be")


def test_a_lone_surrogate_is_no_text(facts: Facts) -> None:
    """JSON can spell what UTF-8 cannot; it is refused in one line."""
    assert refused(facts, {"messages": [{"role": "user", "content": "\ud800"}]}).status == 400


# --- refusals by the engine's front end -----------------------------------------------------------


def late(facts: Facts, vocabulary: int) -> list[tuple[dict[str, object], str]]:
    return [
        ({"prompt": [[]]}, "The decoder prompt cannot be empty"),
        (text(truncate_prompt_tokens=0), "The decoder prompt cannot be empty"),
        ({"prompt": [vocabulary]}, f"Token id {vocabulary} is out of vocabulary"),
        (
            chat(stop_token_ids=[-1, vocabulary]),
            (
                f"token_id(s) [-1, {vocabulary}] in stop_token_ids contain out-of-vocab token ids. Vocabulary size: "
                f"{vocabulary} (parameter=stop_token_ids, value=[-1, {vocabulary}])"
            ),
        ),
        (
            chat(logprobs=True, top_logprobs=21),
            "Requested sample logprobs of 21, which is greater than max allowed: 20 (parameter=logprobs, value=21)",
        ),
        (
            chat(allowed_token_ids=[]),
            "allowed_token_ids is not None and empty! (parameter=allowed_token_ids, value=[])",
        ),
        (
            ids(LONGEST, echo=True, max_tokens=0),
            (
                f"The decoder prompt (length {LONGEST}) plus the number of requested output tokens (at least 1) is "
                "longer than "
                f"the maximum model length of {LONGEST}. Make sure that `max_model_len` is no smaller than the number "
                "of text "
                "tokens (prompt + requested output tokens)."
            ),
        ),
    ]


def test_what_only_the_engine_notices_is_kept_for_later(facts: Facts, tokenizer: Tokenizer) -> None:
    """vLLM raises these when a stream has begun, so they come with the work instead of in its place."""
    for body, message in late(facts, tokenizer.vocab_size):
        assert rejected(facts, body) == message


def test_a_rank_that_does_not_exist(facts: Facts) -> None:
    """X-data-parallel-rank counts from 0; what is no number is ignored."""
    assert rejected(facts, chat(), {"x-data-parallel-rank": "1"}) == "data_parallel_rank 1 is out of range [0, 1)."
    assert judge(facts, chat(), {"x-data-parallel-rank": "0"}).rejection is None
    assert judge(facts, chat(), {"x-data-parallel-rank": "first"}).rejection is None
