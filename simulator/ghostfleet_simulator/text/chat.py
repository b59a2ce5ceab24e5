"""Chat messages as a prompt: plain text of their contents, and the model's template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn


class ChatError(ValueError):
    """Messages that cannot be made a prompt; the text is fit for the client (vLLM answers status 400)."""


_TEXT_OF = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Part types that are text, and the field that holds it (vLLM 0.33 entrypoints/chat_utils.py)."""


def plain_text(content: Any, where: str = "content") -> str:
    """The text of a message's content: a string, nothing, or a list of parts.

    Parts are joined by line ends, as vLLM does. Raises `ChatError`, its message beginning with `where`, for a part that
    is not text.
    """
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    if isinstance(content, Mapping) or not isinstance(content, Sequence):
        raise ChatError(f"{where}: must be a string or a list of parts")
    return "\n".join(_part_text(part, f"{where}[{index}]") for index, part in enumerate(content))


def _part_text(part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        raise ChatError(f"{where}: must be a string or an object with a type")
    kind = part.get("type")
    field = _TEXT_OF.get(kind) if isinstance(kind, str) else None
    if field is None:
        raise ChatError(f"{where}: part of type {kind!r} cannot be read; this model reads {', '.join(_TEXT_OF)}")
    text = part.get(field)
    if not isinstance(text, str):
        raise ChatError(f"{where}.{field}: must be a string")
    return text


class ChatTemplate:
    """A chat template in Jinja, rendered in a sandbox in which nothing can be changed.

    The environment is that of Hugging Face's `transformers`, so templates of real models work: `raise_exception`,
    `strftime_now`, a `tojson` that leaves HTML alone, loop controls. `variables` are further names for every rendering
    (`eos_token`, ...). Safe to use from several threads.
    """

    __slots__ = ("_template", "_variables")

    def __init__(self, source: str, variables: Mapping[str, object] | None = None) -> None:
        from jinja2 import TemplateSyntaxError  # noqa: PLC0415 - loads only where a template is made
        from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415 - as above

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        try:
            self._template = environment.from_string(source)
        except TemplateSyntaxError as error:
            raise ChatError(f"chat template, line {error.lineno}: {error.message}") from None
        # Jinja gathers its globals anew at every rendering, which takes longer than most templates do.
        self._variables = {**self._template.globals, **(variables or {})}

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt as text; `variables` are names for this rendering (`tools`, a request's `chat_template_kwargs`).

        Raises `ChatError` for contents that are not text and for whatever the template rejects.
        """
        from jinja2 import TemplateError  # noqa: PLC0415 - as above

        plain = [
            {**message, "content": plain_text(message.get("content"), f"messages[{index}].content")}
            for index, message in enumerate(messages)
        ]
        names = {
            **self._variables,
            **(variables or {}),
            "messages": plain,
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            return "".join(self._template.root_render_func(self._template.new_context(names, shared=True)))
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
            raise ChatError(str(error) or type(error).__name__) from None


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> NoReturn:
    from jinja2 import TemplateError  # noqa: PLC0415 - as above

    raise TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().astimezone().strftime(pattern)
