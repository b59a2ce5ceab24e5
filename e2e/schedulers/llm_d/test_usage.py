"""Tokens: the picker reads the usage of answers, streamed and whole, and counts what the server counts."""

from __future__ import annotations

from typing import Any

import httpx

from e2e.conftest import until
from e2e.schedulers.llm_d.conftest import Start
from e2e.schedulers.llm_d.fleets import MODEL, endpoints, objects
from ghostfleet_operator.testing.plugin import StartFleet

COUNTS = ("input", "output", "cached")
WHOLE: dict[str, Any] = {
    "model": MODEL,
    "prompt": "all work and no play makes a dull boy " * 20,
    "max_tokens": 7,
    "ignore_eos": True,
}
STREAMED = WHOLE | {"stream": True, "stream_options": {"include_usage": True}}


def test_tokens_are_counted_as_the_server_counts_them(ghostfleet_fleet: StartFleet, start: Start) -> None:
    """Cached ones too: the same prompt four times, of which three are in the cache."""
    fleet = ghostfleet_fleet(objects(alpha={"api": {"enablePromptTokensDetails": True}}))
    picker = start(fleet.endpoints_file, "queue-scorer")
    (place,) = endpoints(fleet)
    for number, body in enumerate((STREAMED, STREAMED, WHOLE, WHOLE)):
        assert picker.ask(body, hold=f"{number}").endpoint == place
        answer = httpx.post(f"http://{place}/v1/completions", json=body, timeout=60, trust_env=False)
        text = answer.raise_for_status().text
        chunks = [f"{event}\n\n" for event in text.split("\n\n") if event] if "stream" in body else [text]
        passed = picker.answer(f"{number}", {"content-type": answer.headers["content-type"]}, chunks)
        assert passed.body == text
    answers = fleet.served()
    wanted = {
        "input": sum(answer.prompt_tokens or 0 for answer in answers),
        "output": sum(answer.completion_tokens or 0 for answer in answers),
        "cached": sum(answer.cached_tokens or 0 for answer in answers),
    }
    assert wanted["output"] == 4 * 7
    assert wanted["cached"] > wanted["input"] / 2
    until(
        "the picker has counted the same",
        lambda: {name: picker.value(f"request_{name}_tokens_sum") for name in COUNTS} == wanted,
    )
