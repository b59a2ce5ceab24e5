"""The text of tokens, alone and one after another."""

from __future__ import annotations

import codecs
import json
from collections.abc import Sequence
from typing import Any, Protocol

_encode_json = json.JSONEncoder(ensure_ascii=False).encode

REPLACEMENT = "\ufffd"
"""Stands for bytes that are no UTF-8; text that ends in it may still be half of a character."""


class TextStream(Protocol):
    """Turns the tokens of one sequence into text, one token at a time."""

    def step(self, token_id: int) -> str:
        """The text that became complete with this token; empty while a character is incomplete."""


def json_fragment(text: str) -> bytes:
    """`text` as it stands between the quotes of a JSON string: UTF-8, only what has to be is escaped."""
    return _encode_json(text)[1:-1].encode()


def byte_alphabet() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for.

    Printable bytes of Latin-1 stand for themselves; the others follow from U+0100 in order (the alphabet of GPT-2, used
    by every byte-level BPE of the `tokenizers` library).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + index): byte for index, byte in enumerate(others)}


class Pieces:
    """What each token of a byte-level vocabulary is, by id; made once and shared by all streams.

    `content` holds the vocabulary's own spelling, None for an id that is not in use.
    """

    __slots__ = ("fragments", "raw", "special", "texts")

    def __init__(self, content: Sequence[str | None], special: frozenset[int]) -> None:
        alphabet = byte_alphabet()
        self.special = special
        """Ids of the tokens that are not shown."""
        self.raw: list[bytes] = []
        """UTF-8 of each token; one token may hold only a part of a character."""
        self.texts: list[str | None] = []
        """Text of each token; None where it is not whole characters."""
        self.fragments: list[bytes | None] = []
        """The same as a JSON fragment, empty for special tokens."""
        for token_id, spelling in enumerate(content):
            raw = _raw(spelling or "", alphabet)
            text = _standalone(raw)
            self.raw.append(raw)
            self.texts.append(text)
            self.fragments.append(b"" if token_id in special else None if text is None else json_fragment(text))


def _raw(spelling: str, alphabet: dict[str, int]) -> bytes:
    try:
        return bytes(alphabet[char] for char in spelling)
    except KeyError:
        # An added token is spelt as it reads; the decoder of `tokenizers` makes the same distinction.
        return spelling.encode()


def _standalone(raw: bytes) -> str | None:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return None
    return None if text.endswith(REPLACEMENT) else text


class ByteStream:
    """A `TextStream` over byte-level tokens.

    Gives text exactly when `tokenizers.decoders.DecodeStream` does, which is what vLLM uses: whatever is held back ends
    in an incomplete character or in U+FFFD, and when the sequence ends there it is never shown. An id outside of the
    vocabulary has no text.
    """

    __slots__ = ("_decoder", "_held", "_pieces", "_skipped")

    def __init__(self, pieces: Pieces, skip_special_tokens: bool) -> None:
        self._pieces = pieces
        self._skipped = pieces.special if skip_special_tokens else frozenset()
        self._decoder: codecs.IncrementalDecoder | None = None
        self._held: list[str] = []

    def step(self, token_id: int) -> str:
        """The text that became complete with this token."""
        pieces = self._pieces
        if token_id in self._skipped or not 0 <= token_id < len(pieces.raw):
            return ""
        decoder = self._decoder
        if decoder is None:
            text = pieces.texts[token_id]
            if text is not None:
                return text
            decoder = self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        new = decoder.decode(pieces.raw[token_id])
        if new:
            self._held.append(new)
        if decoder.getstate()[0] or (self._held and self._held[-1].endswith(REPLACEMENT)):
            return ""
        text = "".join(self._held)
        self._decoder = None
        self._held = []
        return text


class LibraryStream:
    """A `TextStream` for vocabularies that are not byte-level: `tokenizers`' own, slower one."""

    __slots__ = ("_backend", "_stream")

    def __init__(self, backend: Any, skip_special_tokens: bool) -> None:
        from tokenizers.decoders import DecodeStream  # noqa: PLC0415 - loads only where it is needed

        self._backend = backend
        self._stream = DecodeStream(skip_special_tokens=skip_special_tokens)

    def step(self, token_id: int) -> str:
        """The text that became complete with this token."""
        return self._stream.step(self._backend, token_id) or ""
