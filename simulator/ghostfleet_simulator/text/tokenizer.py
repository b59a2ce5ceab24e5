"""The tokenizer of a server: a real `tokenizers` file, read from disk; nothing is ever fetched from a hub."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ghostfleet_simulator.config import ModelSettings
from ghostfleet_simulator.problems import InvalidInput, Problem
from ghostfleet_simulator.text.chat import ChatError, ChatTemplate
from ghostfleet_simulator.text.pieces import ByteStream, LibraryStream, Pieces, TextStream

T = TypeVar("T")

SHIPPED = Path(__file__).parent / "data"
"""The tokenizer that comes with the package; `tools/train_tokenizer.py` makes it."""


class NotText(ValueError):
    """A string that is no Unicode text, so that no tokenizer can read it; the message is fit for a client."""


class Tokenizer:
    """A tokenizer loaded from a folder.

    Read are `tokenizer.json`, and `eos_token` and `chat_template` of `tokenizer_config.json`. Immutable once made and
    safe to use from several threads, so one object serves any number of servers. Raises `InvalidInput` for a folder
    that holds no usable tokenizer.
    """

    def __init__(self, folder: Path | str = SHIPPED, *, chat_template: str | None = None) -> None:
        """`chat_template` is a file or a template, in place of the folder's own."""
        from tokenizers import Tokenizer as Backend  # noqa: PLC0415 - loads only where it is needed
        from tokenizers.decoders import ByteLevel  # noqa: PLC0415 - as above

        folder = Path(folder)
        config = _read_json(folder / "tokenizer_config.json")
        path = folder / "tokenizer.json"
        try:
            self._backend = Backend.from_str(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise _invalid(f"{path}: {error.strerror}") from None
        except Exception as error:  # noqa: BLE001 - `tokenizers` raises nothing narrower
            raise _invalid(f"{path} is not a tokenizer file: {error}") from None
        vocabulary = self._backend.get_vocab(with_added_tokens=True)
        self.vocab_size: int = max(vocabulary.values(), default=-1) + 1
        """One more than the largest token id, special tokens included."""
        self._content: list[str | None] = [None] * self.vocab_size
        for content, token_id in vocabulary.items():
            self._content[token_id] = content
        self.special_ids: frozenset[int] = frozenset(
            token_id for token_id, token in self._backend.get_added_tokens_decoder().items() if token.special
        )
        """Ids of the tokens that stand for no text."""
        self.eos_token_id: int = _eos_token_id(config, vocabulary, folder)
        """Ends an answer."""
        byte_level = isinstance(self._backend.decoder, ByteLevel)
        self.pieces: Pieces | None = Pieces(self._content, self.special_ids) if byte_level else None
        """Text of single tokens; None where a token's text depends on its neighbours."""
        self._chat = _chat_template(config, folder, chat_template)
        self.config = config if chat_template is None else config | {"chat_template": _given_template(chat_template)}
        """What `tokenizer_config.json` says, with the chat template that is used in its place."""
        self._derived: dict[Any, Any] = {}

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`; special tokens spelt out in it are read as such. Raises `NotText`."""
        try:
            # Unlike `encode` it does not look where each token stood, and does without the interpreter's lock.
            ids: list[int] = self._backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids
        except TypeError:
            at = next((index for index, char in enumerate(text) if "\ud800" <= char <= "\udfff"), None)
            if at is None:
                raise
            raise NotText(f"text is not valid Unicode: lone surrogate at character {at}") from None
        return ids

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of `ids`; bytes that are no UTF-8 become U+FFFD, and ids outside of the vocabulary nothing."""
        text: str = self._backend.decode(
            [token_id for token_id in ids if 0 <= token_id < self.vocab_size], skip_special_tokens=skip_special_tokens
        )
        return text

    def id_to_token(self, token_id: int) -> str | None:
        """The token as the vocabulary spells it, a space as `Ġ` and so on; None outside of the vocabulary."""
        return self._content[token_id] if 0 <= token_id < self.vocab_size else None

    def token_strings(self, ids: Sequence[int]) -> list[str | None]:
        """Each token as the vocabulary spells it (vLLM's `token_strs` of `/tokenize`)."""
        return [self.id_to_token(token_id) for token_id in ids]

    def piece_text(self, token_id: int) -> str | None:
        """Text of a token if it has one of its own, to be strung together; None for a part of a character."""
        return self.pieces.texts[token_id] if self.pieces and 0 <= token_id < self.vocab_size else None

    def text_stream(self, skip_special_tokens: bool = True) -> TextStream:
        """A stream that turns the tokens of one sequence into text, as vLLM's detokenizer does."""
        if self.pieces:
            return ByteStream(self.pieces, skip_special_tokens)
        return LibraryStream(self._backend, skip_special_tokens)

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Token ids of a conversation; `variables` are more names for the template (`tools`). Raises `ChatError`."""
        return self.encode(self.render_chat(messages, add_generation_prompt, variables), add_special_tokens=False)

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt that `apply_chat_template` encodes, as text. Raises `ChatError`."""
        if self._chat is None:
            raise ChatError("the tokenizer has no chat template")
        return self._chat.render(messages, add_generation_prompt=add_generation_prompt, variables=variables)

    def derived(self, make: Callable[[Tokenizer], T]) -> T:
        """What `make` makes of this tokenizer; made once for all who share the tokenizer."""
        if make not in self._derived:
            self._derived.setdefault(make, make(self))
        made: T = self._derived[make]
        return made


def tokenizer_of(model: ModelSettings) -> Tokenizer:
    """The tokenizer of a server, with the chat template that it was given. Raises `InvalidInput`."""
    return Tokenizer(model.tokenizer or SHIPPED, chat_template=model.chat_template)


def _invalid(message: str) -> InvalidInput:
    return InvalidInput([Problem("tokenizer", message)])


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _invalid(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise _invalid(f"{path} is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise _invalid(f"{path}: must hold an object")
    return document


def _spelling(token: Any) -> Any:
    """A special token of `tokenizer_config.json`: its text, or an object with its text as `content`."""
    return token.get("content") if isinstance(token, dict) else token


def _eos_token_id(config: dict[str, Any], vocabulary: Mapping[str, int], folder: Path) -> int:
    spelling = _spelling(config.get("eos_token"))
    if not isinstance(spelling, str) or spelling not in vocabulary:
        raise _invalid(f"{folder / 'tokenizer_config.json'}: eos_token {spelling!r} is not in the vocabulary")
    return vocabulary[spelling]


def _given_template(given: str) -> str:
    """A template from the file that is named, or what is given is one itself, as vLLM tells the two apart."""
    try:
        return Path(given).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        if any(char in given for char in "{}\n"):
            return given
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise InvalidInput([Problem("model.chatTemplate", f"{given} cannot be read: {reason}")]) from None


def _chat_template(config: dict[str, Any], folder: Path, given: str | None) -> ChatTemplate | None:
    source = config.get("chat_template")
    beside = folder / "chat_template.jinja"
    if given is not None:
        source = _given_template(given)
    elif beside.is_file():
        source = beside.read_text(encoding="utf-8")
    if source is None:
        return None
    if not isinstance(source, str):
        raise _invalid(f"{folder / 'tokenizer_config.json'}: chat_template must be one Jinja template")
    names = {name: _spelling(token) for name, token in config.items() if name.endswith("_token") and token is not None}
    try:
        return ChatTemplate(source, names)
    except ChatError as error:
        raise _invalid(f"{folder}: {error}") from None
