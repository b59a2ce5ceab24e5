"""The OpenAPI document: FastAPI's own, with the bodies that the routes read themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from fastapi import FastAPI
from pydantic import TypeAdapter

from ghostfleet_simulator.api.requests import CHAT, COMPLETION, DETOKENIZE, TOKENIZE
from ghostfleet_simulator.api.token_requests import GENERATE

_BODIES: Final[dict[str, TypeAdapter[Any]]] = {
    "/v1/chat/completions": CHAT.adapter,
    "/v1/completions": COMPLETION.adapter,
    "/v1/chat/completions/render": CHAT.adapter,
    "/v1/completions/render": COMPLETION.adapter,
    "/inference/v1/generate": GENERATE.adapter,
    "/tokenize": TOKENIZE.adapter,
    "/detokenize": DETOKENIZE.adapter,
}


def describe(app: FastAPI) -> None:
    """Have `app` put the request models of its POST routes into its OpenAPI document, made when first asked for."""
    plain: Callable[[], dict[str, Any]] = app.openapi

    def openapi() -> dict[str, Any]:
        document = plain()
        if "requestBody" not in document["paths"][next(iter(_BODIES))]["post"]:
            schemas, definitions = TypeAdapter.json_schemas(
                [(path, "validation", adapter) for path, adapter in _BODIES.items()],
                ref_template="#/components/schemas/{model}",
            )
            document["components"]["schemas"] |= definitions["$defs"]
            for path in _BODIES:
                content = {"application/json": {"schema": schemas[path, "validation"]}}
                document["paths"][path]["post"]["requestBody"] = {"content": content, "required": True}
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend the document
