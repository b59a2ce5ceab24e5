"""Runs in a pod: sends prompts to servers and prints what their KV events and replays told of them, as JSON.

Its argument is a list of `{"url", "endpoint", "replayEndpoint"}`; it prints a list of `{"prompts", "topic", "number",
"batch", "replayed"}`, where `replayed` is a list of numbers and batches from 0 on.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import httpx
import msgspec
import zmq

TOKENS = 64
MOST_PROMPTS = 60


def hear(context: zmq.Context[zmq.Socket[bytes]], server: dict[str, str]) -> dict[str, Any]:
    """What one server told of. Until the subscription has arrived, prompts are told of to nobody."""
    socket = context.socket(zmq.SUB)
    socket.subscribe(b"")
    socket.connect(server["endpoint"])
    prompts: list[list[int]] = []
    while not socket.poll(500):
        if len(prompts) == MOST_PROMPTS:
            sys.exit(f"nothing came from {server['endpoint']}")
        prompts.append([1000 + TOKENS * len(prompts) + position for position in range(TOKENS)])
        body = {"model": "events", "prompt": prompts[-1], "max_tokens": 1}
        httpx.post(f"{server['url']}/v1/completions", json=body, timeout=30).raise_for_status()
    topic, number, payload = socket.recv_multipart()
    heard = {"topic": topic.decode(), "number": int.from_bytes(number, "big"), "batch": msgspec.msgpack.decode(payload)}
    return {"prompts": prompts, **heard, "replayed": replay(context, server["replayEndpoint"])}


def replay(context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> list[tuple[int, Any]]:
    """All batches with their numbers."""
    socket = context.socket(zmq.DEALER)
    socket.connect(endpoint)
    socket.send_multipart([b"", (0).to_bytes(8, "big")])
    found: list[tuple[int, Any]] = []
    while socket.poll(10_000):
        message = socket.recv_multipart()
        if not message[-1]:
            return found
        found.append((int.from_bytes(message[-2], "big"), msgspec.msgpack.decode(message[-1])))
    sys.exit(f"the replay of {endpoint} did not end")


if __name__ == "__main__":
    made: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    print(json.dumps([hear(made, server) for server in json.loads(sys.argv[1])]))
    made.destroy(linger=0)
