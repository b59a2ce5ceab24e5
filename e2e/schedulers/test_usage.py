"""What a picker makes of answers: tokens counted as the server counts them, requests that end and that break off."""

from __future__ import annotations

import json
from typing import Any

import httpx

from e2e.conftest import until
from e2e.schedulers.busy import cut_short
from e2e.schedulers.lab import MODEL, Lab, RunningPicker, gauge, scoring

PROMPT = "all work and no play makes a dull boy " * 20
STREAMED = {
    "model": MODEL,
    "prompt": PROMPT,
    "max_tokens": 7,
    "ignore_eos": True,
    "stream": True,
    "stream_options": {"include_usage": True},
}
WHOLE = {key: value for key, value in STREAMED.items() if key != "stream_options"} | {"stream": False}


def sums(picker: RunningPicker) -> dict[str, float | None]:
    names = ("input_tokens", "output_tokens")
    return {name: gauge(picker.url, f"inference_objective_{name}_sum") for name in names}


def usage_of(chunks: list[str]) -> dict[str, Any]:
    events = [json.loads(chunk.removeprefix("data: ")) for chunk in chunks if chunk.startswith("data: {")]
    found: dict[str, Any] = next(event["usage"] for event in events if event.get("usage"))
    return found


def test_tokens_are_counted_as_the_server_counts_them(lab: Lab) -> None:
    """A stream and a whole answer, twice each. (v1.5.0 looks for cached tokens under a name that no server has.)"""
    (pod, *_) = lab.pods()
    wanted = {"input_tokens": 0, "output_tokens": 0}
    with lab.picker("usage", scoring(queue_scorer=1)) as picker:
        for number, body in enumerate((STREAMED, STREAMED, WHOLE, WHOLE)):
            picker.ask(body, hold=f"{number}")
            answer = httpx.post(f"{pod.url}/v1/completions", json=body, timeout=60, trust_env=False)
            kind = answer.headers["content-type"]
            text = answer.raise_for_status().text
            chunks = [f"{event}\n\n" for event in text.split("\n\n") if event] if body["stream"] else [text]
            assert picker.answer(f"{number}", {"content-type": kind}, chunks).body == "".join(chunks)
            usage = usage_of(chunks) if body["stream"] else answer.json()["usage"]
            wanted["input_tokens"] += usage["prompt_tokens"]
            wanted["output_tokens"] += usage["completion_tokens"]
        assert wanted["output_tokens"] == 4 * 7
        until("the picker has counted the same", lambda: sums(picker) == wanted)


def test_a_request_that_breaks_off_is_not_counted_as_running_for_ever(lab: Lab) -> None:
    """The server's pod is killed in the middle of a stream; the proxy ends the exchange, and nothing runs any more."""
    with lab.picker("broken", scoring(queue_scorer=1)) as picker:
        body = STREAMED | {"max_tokens": 1000}
        decision = picker.ask(body, hold="broken")
        pod = next(pod for pod in lab.pods() if pod.endpoint == decision.endpoint)
        until("it counts as running", lambda: gauge(picker.url, "inference_objective_running_requests") == 1)
        rest = cut_short(pod.url, body, lambda: lab.kill(pod))
        assert b"[DONE]" not in rest
        picker.drop("broken")
        until("nothing runs any more", lambda: gauge(picker.url, "inference_objective_running_requests") == 0)
        until("it is not picked any more", lambda: pod.endpoint not in picker.spread(STREAMED, 30))
