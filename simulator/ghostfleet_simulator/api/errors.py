"""What a client is told when its request cannot be served, word for word as vLLM 0.33 says it.

Source: vLLM 0.33 entrypoints/serve/exception_handling and vllm/exceptions.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from starlette.exceptions import HTTPException

_ADDRESS: Final = re.compile(r" at 0x[0-9a-fA-F]+>")
_TRACE: Final = re.compile(r'\n?\s*File "[^"]+", line \d+, in \S+(\n\s+.*)?')
_PATH: Final = re.compile(r"/(?:home|usr|opt|var|tmp|root|lib|mnt|srv)(?:/[\w.\-]+)+")
_FILE: Final = re.compile(r"(?:/[\w\-]+)+/[\w\-]+\.\w+")


def sanitized(message: str) -> str:
    """The message without memory addresses, trace lines and absolute paths (`<path>` stands for them)."""
    message = _TRACE.sub("", _ADDRESS.sub(">", message))
    return _FILE.sub("<path>", _PATH.sub("<path>", message)).strip()


class ApiError(Exception):
    """An answer that is an error: `{"error": {"message", "type", "param", "code"}}`, `code` being the HTTP status."""

    def __init__(self, status: int, type_: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.type = type_
        self.message = sanitized(message)
        self.param = param

    def __reduce__(self) -> tuple[type[ApiError], tuple[int, str, str, str | None]]:
        return ApiError, (self.status, self.type, self.message, self.param)

    def body(self) -> dict[str, Any]:
        """The body as plain JSON."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.status}}

    def to_json(self) -> bytes:
        """The body as it is sent, without spaces."""
        return json.dumps(self.body(), ensure_ascii=False, separators=(",", ":")).encode()

    def chat_frame(self) -> bytes:
        """The frame that ends a chat stream which had begun; `[DONE]` follows."""
        return b"data: " + self.to_json() + b"\n\n"

    def completion_frame(self) -> bytes:
        """The frame that ends a completion stream; vLLM writes this one with spaces and in ASCII."""
        return b"data: " + json.dumps(self.body()).encode() + b"\n\n"


def bad_request(message: str, param: str | None = None) -> ApiError:
    """An error vLLM answers without raising: 400 `BadRequestError`, the message as it is."""
    return ApiError(400, "BadRequestError", message, param)


def validation_error(message: str, parameter: str | None = None, value: Any = None) -> ApiError:
    """vLLM's `VLLMValidationError`: 400 `BadRequestError`, parameter and value appended to the message."""
    extras = [f"parameter={parameter}"] if parameter is not None else []
    if value is not None:
        extras.append(f"value={value}")
    return ApiError(400, "BadRequestError", f"{message} ({', '.join(extras)})" if extras else message, parameter)


def unknown_model(model: object, aliases: Sequence[str] = ()) -> ApiError:
    """The answer to a model name that is not served; without `aliases` it does not tell which are."""
    hint = f" Valid aliases: {', '.join(aliases)}." if aliases else ""
    return ApiError(404, "NotFoundError", f"The model `{model}` does not exist.{hint}", "model")


def internal_error(message: str = "Internal server error") -> ApiError:
    """The answer to a failure that the client did not cause."""
    return ApiError(500, "InternalServerError", message)


def paused(*, streamed: bool) -> ApiError:
    """The answer of an engine whose generation is paused; in a stream, which has begun by then, under another type."""
    error_type = "InternalServerError" if streamed else "ServiceUnavailableError"
    return ApiError(503, error_type, "Generation is paused. Please retry after it resumes.")


def unavailable(message: str) -> ApiError:
    """A request turned away before it was queued: 503 under the phrase of the status, for load balancers to retry."""
    return ApiError(503, HTTPStatus.SERVICE_UNAVAILABLE.phrase, message)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words that pydantic puts into an error's location for a branch of a union or a wrapper; never the name of a field.
_MARKERS: Final = _words(
    "function-wrap function-after function-before function-plain json-or-python lax-or-strict chain default nullable "
    "tagged-union union call arguments is-instance is-subclass callable str int float bool bytes bytearray list tuple "
    "dict set frozenset complex none nonetype"
)
# vLLM's request models are wrapped, so their branches are "function-wrap[...]" there and the class's name here.
_WRAPPED: Final = _words(
    "ResponseFormat StructuralTagResponseFormat LegacyStructuralTagResponseFormat TokenizeCompletionRequest "
    "TokenizeChatRequest ChatCompletionNamedToolChoiceParam"
)
_BRACKETS: Final = re.compile(r"[\[\]{}()]")
_MOST_ERRORS: Final = 10
_MOST_INPUT_CHARS: Final = 200
_MOST_ERROR_CHARS: Final = 1000


def _field_path(location: Sequence[int | str]) -> str:
    parts = [str(part) for part in location]
    named = [p for p in parts if not (_BRACKETS.search(p) or p.lower() in _MARKERS or p in _WRAPPED)]
    return ".".join(named or parts)


def _truncated(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit] + "...[truncated]"


def _summary(value: object) -> object:
    """A stand-in for the offending value, bounded in size; containers are described, not rendered."""
    if isinstance(value, str):
        return _truncated(value, _MOST_INPUT_CHARS)
    if isinstance(value, (list, tuple, set, frozenset, dict)):
        return f"<{type(value).__name__} of {len(value)} items>"
    try:
        return _truncated(str(value), _MOST_INPUT_CHARS)
    except ValueError:  # an integer of too many digits for str()
        return f"<{type(value).__name__}>"


def _rendered(error: Mapping[str, Any] | str) -> str:
    if isinstance(error, str):
        return _truncated(error, _MOST_ERROR_CHARS)
    shown = dict(error)
    if "input" in shown:
        shown["input"] = _summary(shown["input"])
    shown["loc"] = _field_path(shown["loc"])
    return _truncated(str(shown), _MOST_ERROR_CHARS)


def invalid_body(errors: Sequence[Mapping[str, Any] | str]) -> ApiError:
    """The answer to a body that does not fit the request model.

    `errors` are pydantic's, as `ValidationError.errors(include_url=False)` gives them, each with `body` put before its
    `loc`; or plain strings.
    """
    count, first = len(errors), errors[0]
    label = "error" if count == 1 else "errors"
    message = f"{count} validation {label}:\n" + "".join(f"  {_rendered(error)}\n" for error in errors[:_MOST_ERRORS])
    if count > _MOST_ERRORS:
        message += f"  ...and {count - _MOST_ERRORS} more {label}\n"
    param = None if isinstance(first, str) or not first["loc"] else _field_path(first["loc"])
    return ApiError(400, HTTPStatus.BAD_REQUEST.phrase, message.rstrip(), param)


def wrong_media_type() -> ApiError:
    """The answer to a POST whose body is not declared as JSON."""
    return invalid_body(["Unsupported Media Type: Only 'application/json' is allowed"])


def malformed_json(reason: str, position: int) -> ApiError:
    """The answer to a body that is not JSON; reason and position are those of `json.JSONDecodeError`."""
    return invalid_body(
        [
            {
                "type": "json_invalid",
                "loc": ("body", position),
                "msg": "JSON decode error",
                "input": {},
                "ctx": {"error": reason},
            }
        ]
    )


def unreadable_body() -> HTTPException:
    """The answer to a body whose bytes are not even text; FastAPI's own, `{"detail": ...}`."""
    return HTTPException(400, "There was an error parsing the body")
