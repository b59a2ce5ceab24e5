"""What the serving API offers beside generation, and to whom; vLLM's flags."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StringConstraints
from pydantic_core import PydanticCustomError

from ghostfleet_simulator.config.base import Flag, Settings, Switch


def _listed(raw: Any) -> Any:
    """vLLM's command line has these lists as one JSON text."""
    if not isinstance(raw, (list, tuple)):
        return raw
    words = tuple(raw)
    if not words or not all(isinstance(word, str) for word in words) or not words[0].lstrip().startswith("["):
        return words
    try:
        return tuple(json.loads(" ".join(words)))
    except ValueError as error:
        raise PydanticCustomError("settings", "not a JSON list: {reason}", {"reason": str(error)}) from None


_Word = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
_Words = Annotated[tuple[_Word, ...], Field(max_length=64), BeforeValidator(_listed)]


class Http(Settings):
    """What the serving API offers beside generation, and to whom."""

    development_mode: Annotated[Switch, Flag("server-dev-mode")] = False
    """Serve vLLM's development routes, such as `/sleep` and `/pause`; as a variable also `VLLM_SERVER_DEV_MODE=1`."""

    allow_runtime_lora_updating: Annotated[Switch, Flag("allow-runtime-lora-updating")] = False
    """Serve `/v1/load_lora_adapter` and `/v1/unload_lora_adapter`. As a variable also
    `VLLM_ALLOW_RUNTIME_LORA_UPDATING=1`."""

    llmd_sim_routes: Annotated[Switch, Flag("llmd-sim-routes")] = False
    """Serve what only llm-d-inference-sim has, such as `/admin/config` and `/health/ready`."""

    enable_tokenizer_info_endpoint: Annotated[Switch, Flag("enable-tokenizer-info-endpoint")] = False
    """Serve `GET /tokenizer_info`."""

    enable_server_load_tracking: Annotated[Switch, Flag("enable-server-load-tracking")] = False
    """`GET /load` counts the requests in progress; without it, it is always 0."""

    disable_fastapi_docs: Annotated[Switch, Flag("disable-fastapi-docs")] = False
    """Serve neither `/docs` nor `/redoc` nor `/openapi.json`."""

    root_path: Annotated[
        str, StringConstraints(max_length=1024, pattern=r"^(/[^\x00-\x20\x7f?#]*)?$"), Flag("root-path")
    ] = ""
    """Path under which a proxy shows the API; routes are found with and without it."""

    allowed_origins: Annotated[_Words, Flag("allowed-origins")] = ("*",)
    """Origins whose pages may call the API, `*` being all; on the command line also a JSON list."""

    allow_credentials: Annotated[Switch, Flag("allow-credentials")] = False
    """Whether such pages may send credentials."""

    allowed_methods: Annotated[_Words, Flag("allowed-methods")] = ("*",)
    """Methods that such pages may use."""

    allowed_headers: Annotated[_Words, Flag("allowed-headers")] = ("*",)
    """Headers that such pages may send."""
