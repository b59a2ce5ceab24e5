"""The process that reads large bodies: jobs come by standard input and go, done, by standard output (`api.reading`)."""

from __future__ import annotations

import gc
import os
import pickle
import sys
from array import array
from contextlib import suppress
from typing import IO, Any, Final

from ghostfleet_simulator.config import ModelSettings
from ghostfleet_simulator.runtime.work import Prompt
from ghostfleet_simulator.text.tokenizer import Tokenizer, tokenizer_of

_NICENESS: Final = 5
"""What is on time goes before what is large."""
_TOKENIZER: Final = "tokenizer"


class Question(pickle.Pickler):
    """Writes a job. The tokenizer, which both processes have, only by its name."""

    def persistent_id(self, obj: Any) -> str | None:
        """The name of what is not written."""
        return _TOKENIZER if isinstance(obj, Tokenizer) else None


class _Asked(pickle.Unpickler):
    def __init__(self, source: IO[bytes], tokenizer: Tokenizer) -> None:
        super().__init__(source)
        self._tokenizer = tokenizer

    def persistent_load(self, _name: str) -> Tokenizer:
        return self._tokenizer


class _Answer(pickle.Pickler):
    """Writes the tokens of prompts so that they are read in an instant."""

    def reducer_override(self, obj: Any) -> Any:
        """A prompt with an array in the place of a list, where the numbers are such as fit into one."""
        if type(obj) is not Prompt:
            return NotImplemented
        try:
            token_ids = array("q", obj.token_ids)
        except OverflowError:
            return NotImplemented
        return _prompt, (obj.id, token_ids, obj.sampling, obj.echo, obj.text, obj.prefix)


def _prompt(name: str, token_ids: array[int], *rest: Any) -> Prompt:
    return Prompt(name, token_ids.tolist(), *rest)


def _serve(source: IO[bytes], sink: IO[bytes]) -> None:
    model: ModelSettings = pickle.load(source)  # noqa: S301 - it was made by our own process
    tokenizer = tokenizer_of(model)
    gc.freeze()
    gc.disable()  # it would look through millions of values that go away by themselves
    while True:
        job, facts, body, headers = _Asked(source, tokenizer).load()
        try:
            reply = True, job(facts, body, headers)
        except Exception as error:  # noqa: BLE001 - the other process has a handler for each
            reply = False, error
        _Answer(sink, pickle.HIGHEST_PROTOCOL).dump(reply)
        sink.flush()
        del job, facts, body, headers, reply
        gc.collect()


def main() -> None:
    """Do jobs until the input ends, as it does with the process that started this one."""
    os.nice(_NICENESS)
    with suppress(EOFError, BrokenPipeError):
        _serve(sys.stdin.buffer, sys.stdout.buffer)
