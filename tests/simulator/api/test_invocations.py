"""SageMaker's one route for both protocols."""

from __future__ import annotations

import pytest
from tests.simulator.api.conftest import Running

HELLO = [{"role": "user", "content": "hello you"}]


async def test_one_route_serves_both_protocols(running: Running) -> None:
    chat = await running.post("/invocations", {"messages": HELLO})
    assert chat.json()["object"] == "chat.completion"
    completion = await running.post("/invocations", {"prompt": "hello", "stream": True})
    assert completion.headers["content-type"].startswith("text/event-stream")
    assert '"object":"text_completion"' in completion.text


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("{", "JSON decode error: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        (
            '{"prompt": 5}',
            "Cannot find suitable handler for request. Expected one of: ['ChatCompletionRequest', 'CompletionRequest']",
        ),
        (
            '{"prompt": "x", "stream_options": {"include_usage": true}}',
            "Stream options can only be defined when `stream=True`.",
        ),
    ],
)
async def test_what_is_neither_is_told(running: Running, body: str, message: str) -> None:
    answer = await running.client.post("/invocations", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(message)


async def test_one_route_takes_only_json(running: Running) -> None:
    answer = await running.client.post("/invocations", content="{}", headers={"content-type": "text/plain"})
    assert answer.json()["error"]["message"].endswith("Unsupported Media Type: Only 'application/json' is allowed")
