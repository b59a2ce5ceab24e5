"""`python -m tests.apiserver.admin_pods PORT`: the admin API of all pods at once, told apart by the address asked.

The rule by which a document replaces another is the simulator's own. A pod begins with revision 0, as if its file had
not come yet, so whatever it runs it was given by a push. A pod at an address that another one had before is
known by its token. `/hashes` counts the pods by what they run, those that are gone included.
"""

from __future__ import annotations

import functools
import json
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import uvicorn

from ghostfleet_simulator.config import ServerConfig
from ghostfleet_simulator.document import Document, InForce, Refused
from ghostfleet_simulator.problems import InvalidInput

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class AdminPods:
    """An ASGI application; what each pod runs, by address and token."""

    def __init__(self) -> None:
        config = ServerConfig.model_validate({"model": {"name": "none-yet"}})
        self._start = InForce.start(Document.of(config))
        self._pods: dict[tuple[str, bytes], InForce] = {}
        # A document goes to every pod of a server.
        self._parse = functools.lru_cache(64)(lambda body: Document.parse(json.loads(body)))

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        body = b""
        while scope["method"] == "PUT":
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        token = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        status, answer = self._answer(scope["method"], scope["path"], (scope["server"][0], token), body)
        content = json.dumps(answer).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    def _answer(self, method: str, path: str, pod: tuple[str, bytes], body: bytes) -> tuple[int, object]:
        state = self._pods.get(pod, self._start)
        match method, path:
            case "GET", "/admin/ready":
                return 200, {"ready": True}
            case "GET", "/admin/state":
                return 200, {"revision": state.revision, "hash": state.document.hash}
            case "GET", "/hashes":
                return 200, Counter(state.document.hash for state in self._pods.values())
            case "PUT", "/admin/config":
                return self._put(pod, state, body)
        return 404, {"error": {"message": "not found"}}

    def _put(self, pod: tuple[str, bytes], state: InForce, body: bytes) -> tuple[int, object]:
        try:
            state = self._pods[pod] = state.offer(self._parse(body))
        except Refused as error:
            return 409, {"error": {"message": str(error)}}
        except (InvalidInput, ValueError) as error:
            return 422, {"error": {"message": str(error)}}
        return 200, {"revision": state.revision, "hash": state.document.hash}


if __name__ == "__main__":
    uvicorn.run(
        AdminPods(),  # type: ignore[arg-type]  # uvicorn's own types are narrower than the ASGI messages
        host="0.0.0.0",
        port=int(sys.argv[1]),
        lifespan="off",
        access_log=False,
        log_level="warning",
        backlog=4096,
        timeout_keep_alive=120,
    )
