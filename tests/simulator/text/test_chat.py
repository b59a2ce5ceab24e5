"""Conversations as prompts: the shipped template, contents in parts, what a template may do and what it may not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ghostfleet_simulator.text.chat import ChatError, ChatTemplate, plain_text
from ghostfleet_simulator.text.tokenizer import SHIPPED, Tokenizer


def test_the_shipped_template_marks_the_turns(tokenizer: Tokenizer) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    prompt = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    assert tokenizer.render_chat(messages) == prompt + "<|im_start|>assistant\n"
    assert tokenizer.render_chat(messages, add_generation_prompt=False) == prompt


def test_a_prompt_is_the_template_encoded_with_its_special_tokens(tokenizer: Tokenizer) -> None:
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}])
    assert tokenizer.decode(ids, skip_special_tokens=False) == tokenizer.render_chat(
        [{"role": "user", "content": "Hi"}]
    )
    assert [token for token in tokenizer.token_strings(ids) if token and token.startswith("<|")] == [
        "<|im_start|>",
        "<|im_end|>",
        "<|im_start|>",
    ]


def test_tools_and_calls_are_part_of_the_prompt(tokenizer: Tokenizer) -> None:
    function = {"name": "weather", "arguments": {"city": "Zürich <3"}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": function}]},
        {"role": "tool", "content": "no", "tool_call_id": "1"},
    ]
    text = tokenizer.render_chat(messages, variables={"tools": [{"type": "function", "function": {"name": "weather"}}]})
    assert text == (
        '<|im_start|>system\n{"type": "function", "function": {"name": "weather"}}\n<|im_end|>\n'
        "<|im_start|>user\nRain?<|im_end|>\n"
        '<|im_start|>assistant\n\n{"name": "weather", "arguments": {"city": "Zürich <3"}}<|im_end|>\n'
        "<|im_start|>tool\nno<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("plain", "plain"),
        (None, ""),
        ([], ""),
        ([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}], "one\ntwo"),
        (["one", {"type": "refusal", "refusal": "no"}], "one\nno"),
        ([{"type": "input_text", "text": "in"}, {"type": "output_text", "text": "out"}], "in\nout"),
    ],
)
def test_parts_are_joined_by_line_ends(content: object, text: str) -> None:
    assert plain_text(content) == text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (3, r"messages\[0\]\.content: must be a string or a list of parts"),
        ({"type": "text"}, r"messages\[0\]\.content: must be a string or a list of parts"),
        ([3], r"messages\[0\]\.content\[0\]: must be a string or an object with a type"),
        (["a", {"text": "b"}], r"messages\[0\]\.content\[1\]: part of type None cannot be read"),
        ([{"type": "image_url"}], r"messages\[0\]\.content\[0\]: part of type 'image_url' cannot be read; this model"),
        ([{"type": ["text"]}], r"content\[0\]: part of type \['text'\] cannot be read"),
        ([{"type": "text", "text": 1}], r"messages\[0\]\.content\[0\]\.text: must be a string"),
    ],
)
def test_contents_that_are_no_text_are_named(tokenizer: Tokenizer, content: object, message: str) -> None:
    with pytest.raises(ChatError, match=message):
        tokenizer.apply_chat_template([{"role": "user", "content": content}])


def test_a_template_may_reject_a_conversation() -> None:
    template = ChatTemplate("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(ChatError, match=r"^roles must alternate$"):
        template.render([{"role": "user", "content": "a"}])


@pytest.mark.parametrize(
    "source",
    ["{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}", "{{ 1 // 0 }}", "{{ messages[0].content + 1 }}"],
)
def test_a_template_cannot_reach_out_change_its_input_or_break_the_server(source: str) -> None:
    with pytest.raises(ChatError):
        ChatTemplate(source).render([{"role": "user", "content": "a"}])


def test_templates_of_real_models_find_the_names_they_use() -> None:
    template = ChatTemplate(
        "{{ bos_token }}{{ strftime_now('%Y') | length }}"
        "{%- for m in messages %}{% if m.role == 'x' %}{% continue %}{% endif %}{{ m | tojson }}{% endfor %}",
        {"bos_token": "<s>"},
    )
    text = template.render([{"role": "x", "content": "-"}, {"role": "user", "content": "é<"}])
    assert text == '<s>4{"role": "user", "content": "é<"}'


def test_a_tokenizer_without_a_template_says_so(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((SHIPPED / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}')
    with pytest.raises(ChatError, match="has no chat template"):
        Tokenizer(tmp_path).render_chat([{"role": "user", "content": "a"}])
