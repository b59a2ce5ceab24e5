"""The shipped tokenizer: what training gives, and nothing in it that no text can reach."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from ghostfleet_simulator.text.tokenizer import SHIPPED, Tokenizer

ROOT = Path(__file__).parents[3]


def test_the_shipped_files_are_what_training_gives() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "train_tokenizer.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def _texts() -> Iterator[str]:
    """Texts that together use every token: the corpus, and characters from every part of Unicode."""
    for path in [SHIPPED / "sentences.txt", *(ROOT / "tools" / "corpus").glob("*.txt")]:
        text = path.read_text(encoding="utf-8")
        yield text
        yield from text.splitlines()
    for code in [*range(0x10000), *range(0x10000, 0x110000, 61)]:
        if not 0xD800 <= code <= 0xDFFF:
            yield chr(code)


def _around(part: bytes) -> Iterator[str]:
    """Texts that contain bytes which begin, or end, inside of a character."""
    inside = next((index for index, byte in enumerate(part) if byte & 0xC0 != 0x80), len(part))
    begun, rest = part[:inside], part[inside:]
    for code in range(0x80, 0x20000):
        if 0xD800 <= code <= 0xDFFF or not (first := chr(code).encode()).endswith(begun):
            continue
        for end in (b"", b"\x80", b"\xaa", b"\xb0"):
            with contextlib.suppress(UnicodeDecodeError):
                yield (first + rest + end).decode()


def test_every_token_is_reached_by_some_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.pieces is not None
    seen = {token_id for text in _texts() for token_id in tokenizer.encode(text)}
    for token_id in range(tokenizer.vocab_size):
        text = tokenizer.piece_text(token_id)
        if text is not None:
            # A token that is whole characters is what its own text is read as.
            assert tokenizer.encode(text) == [token_id]
            seen.add(token_id)
        elif token_id not in seen:
            seen.update(*(tokenizer.encode(around) for around in _around(tokenizer.pieces.raw[token_id])))
    assert seen == set(range(tokenizer.vocab_size))


def test_the_vocabulary_holds_a_few_thousand_entries_with_the_special_ones_last(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == 4096
    assert sorted(tokenizer.special_ids) == [4093, 4094, 4095]
    assert tokenizer.token_strings([4093, 4094, 4095]) == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert tokenizer.eos_token_id == 4095


def test_the_files_name_no_hub_and_no_machine() -> None:
    config = json.loads((SHIPPED / "tokenizer_config.json").read_text())
    assert "name_or_path" not in config
    assert "://" not in "".join(config["chat_template"])
