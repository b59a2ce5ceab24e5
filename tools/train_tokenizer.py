"""Trains the tokenizer that ships with the simulator: `tools/train_tokenizer.py [--check]`.

The text is `tools/corpus/` and the sentences of the random answers, all written for this project. The same text gives
the same files, whatever machine trains them; `--check` says whether the files in the package are those.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

TOOLS = Path(__file__).resolve().parent
DATA = TOOLS.parent / "simulator" / "ghostfleet_simulator" / "text" / "data"

VOCAB_SIZE = 4096
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
    r"|[^\r\n\p{L}\p{N}]?\p{L}+"
    r"|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""What no token reaches beyond: a word with the space before it, three digits, a run of punctuation, a line end."""

NEVER_IN_UTF8 = {0xC0, 0xC1, *range(0xF5, 0x100)}
"""Bytes no text contains; an entry for one of them could not be reached."""

TEMPLATES = (
    "The {adjectives} {nouns} will {verbs} the {nouns} {adverbs}.",
    "They {adverbs} {verbs} every {nouns} in a {adjectives} {nouns}.",
    "Can you {verbs} this {adjectives} {nouns} and {verbs} that {nouns} {adverbs}?",
    "To {verbs} a {nouns}, {verbs} its {adjectives} {nouns} {adverbs}.",
)


def byte_alphabet() -> dict[int, str]:
    """The character that stands for each byte in a byte-level vocabulary."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(256) if byte not in printable)
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + index) for index, byte in enumerate(others)}


def combinations(words: dict[str, list[str]], count: int) -> Iterator[str]:
    """`count` sentences made from the word lists, each list walked round and round in its own order."""
    walks = {kind: itertools.cycle(listed) for kind, listed in words.items()}
    for template in itertools.islice(itertools.cycle(TEMPLATES), count):
        parts = template.split("{")
        yield parts[0] + "".join(next(walks[part.split("}")[0]]) + part.split("}")[1] for part in parts[1:])


def corpus() -> Iterator[str]:
    """The training text in pieces; better text comes more often, because the merges follow the counts."""
    read = {path.stem: path.read_text(encoding="utf-8") for path in sorted((TOOLS / "corpus").glob("*.txt"))}
    words = {kind: listed.split() for kind, listed in (line.split(":") for line in read["words"].splitlines())}
    sentences = (DATA / "sentences.txt").read_text(encoding="utf-8").splitlines()
    prose = read["prose"].splitlines()
    for _ in range(4):
        yield from (f"{first} {second}" for first, second in itertools.pairwise([*sentences, *prose]))
        yield read["code"]
    for _ in range(3):
        yield from read["multilingual"].splitlines()
    yield from combinations(words, 2500)


def train() -> Tokenizer:
    """A byte-level BPE over the corpus, with the special tokens behind all others."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = [char for byte, char in byte_alphabet().items() if byte not in NEVER_IN_UTF8]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(SPECIAL_TOKENS), min_frequency=2, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    return tokenizer


def as_json(document: object) -> str:
    """JSON with one entry per line, so that a change can be read."""
    return json.dumps(document, ensure_ascii=False, indent=1) + "\n"


def files() -> dict[str, str]:
    """The content of each file of the tokenizer, by name."""
    trained = json.loads(train().to_str())
    trained["model"]["merges"] = [
        pair if isinstance(pair, str) else " ".join(pair) for pair in trained["model"]["merges"]
    ]
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "chat_template": (TOOLS / "chat_template.jinja").read_text(encoding="utf-8").strip(),
    }
    return {"tokenizer.json": as_json(trained), "tokenizer_config.json": as_json(config)}


def main() -> int:
    """Write the files, or compare them."""
    parser = argparse.ArgumentParser(description="Trains the tokenizer that ships with the simulator.")
    parser.add_argument("--check", action="store_true", help="only say whether the files are what training gives")
    check = parser.parse_args().check
    changed = 0
    for name, content in files().items():
        path = DATA / name
        if path.exists() and path.read_text(encoding="utf-8") == content:
            continue
        changed += 1
        print(f"{path.relative_to(TOOLS.parent)} {'differs' if check else 'written'}")
        if not check:
            path.write_text(content, encoding="utf-8")
    return 1 if check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
