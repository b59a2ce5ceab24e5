"""Reading and writing text: round trips, tokens alone and one after another, folders that hold no tokenizer."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from ghostfleet_simulator.problems import InvalidInput
from ghostfleet_simulator.text.pieces import json_fragment
from ghostfleet_simulator.text.tokenizer import SHIPPED, NotText, Tokenizer

TOKENIZER = Tokenizer()
IDS = st.integers(0, TOKENIZER.vocab_size - 1)
PARTIAL = [i for i in range(TOKENIZER.vocab_size) if TOKENIZER.piece_text(i) is None]
WILD_IDS = st.lists(st.one_of(IDS, st.sampled_from(PARTIAL)), max_size=40)
"""Tokens in any order, many of them parts of characters."""


@given(st.text())
def test_any_text_survives_encoding_and_decoding(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text), skip_special_tokens=False) == text


@given(st.text(alphabet="<|>imendstart_ofx \n"))
def test_text_that_resembles_special_tokens_survives_too(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text), skip_special_tokens=False) == text


def test_special_tokens_are_read_in_text_and_left_out_when_skipped() -> None:
    ids = TOKENIZER.encode("a<|im_end|>b")
    assert ids[1] == TOKENIZER.eos_token_id
    assert len(ids) == 3
    assert TOKENIZER.decode(ids) == "ab"
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == "a<|im_end|>b"


def test_nothing_is_put_before_or_after_a_text() -> None:
    assert TOKENIZER.encode("") == []
    assert TOKENIZER.encode("hello") == TOKENIZER.encode("hello", add_special_tokens=False)


@pytest.mark.parametrize("text", ["\ud800", "good until here\udfff"])
def test_a_lone_surrogate_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(NotText, match=rf"lone surrogate at character {len(text) - 1}"):
        TOKENIZER.encode(text)


def test_ids_outside_of_the_vocabulary_have_no_text() -> None:
    inside = TOKENIZER.encode("hello")
    assert TOKENIZER.decode([-1, *inside, 4096, 2**40]) == "hello"
    assert TOKENIZER.token_strings([4096, -1]) == [None, None]
    assert TOKENIZER.piece_text(-1) is None
    assert TOKENIZER.text_stream().step(4096) == ""


@given(st.lists(IDS, max_size=30))
def test_texts_of_whole_tokens_can_be_strung_together(ids: list[int]) -> None:
    whole = [token_id for token_id in ids if TOKENIZER.piece_text(token_id) is not None]
    strung = "".join(TOKENIZER.piece_text(token_id) or "" for token_id in whole)
    assert strung == TOKENIZER.decode(whole, skip_special_tokens=False)


@given(WILD_IDS, st.booleans())
def test_a_stream_gives_text_exactly_when_the_librarys_own_does(ids: list[int], skip: bool) -> None:
    backend = Backend.from_file(str(SHIPPED / "tokenizer.json"))
    theirs = decoders.DecodeStream(skip_special_tokens=skip)
    ours = TOKENIZER.text_stream(skip)
    assert [ours.step(token_id) for token_id in ids] == [theirs.step(backend, token_id) or "" for token_id in ids]


def test_a_replacement_character_is_held_back_like_half_a_character() -> None:
    stream = TOKENIZER.text_stream()
    *most, last = TOKENIZER.encode("\ufffd!")
    assert "".join(stream.step(token_id) for token_id in most) == ""
    assert stream.step(last) == "\ufffd!"


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_fragment_is_the_inside_of_a_json_string(text: str) -> None:
    fragment = json_fragment(text)
    assert json.loads(b'"' + fragment + b'"') == text
    assert fragment.decode() == json.dumps(text, ensure_ascii=False)[1:-1]


def test_every_piece_has_its_fragment() -> None:
    pieces = TOKENIZER.pieces
    assert pieces is not None
    for token_id, (text, fragment) in enumerate(zip(pieces.texts, pieces.fragments, strict=True)):
        if token_id in TOKENIZER.special_ids:
            assert fragment == b""
        elif text is None:
            assert fragment is None
        else:
            assert fragment == json_fragment(text)


def test_one_tokenizer_serves_many_threads() -> None:
    texts = [f"Request number {i} — größer, {'é' * (i % 7)} 火车" * 3 for i in range(400)]
    with ThreadPoolExecutor(8) as pool:
        back = list(pool.map(lambda text: TOKENIZER.decode(TOKENIZER.encode(text)), texts))
    assert back == texts


def test_the_module_does_not_import_the_library() -> None:
    code = (
        "import sys, ghostfleet_simulator.text.answer; sys.exit('tokenizers' in sys.modules or 'jinja2' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def _copy(folder: Path, **changes: object) -> Path:
    (folder / "tokenizer.json").write_bytes((SHIPPED / "tokenizer.json").read_bytes())
    config = json.loads((SHIPPED / "tokenizer_config.json").read_text()) | changes
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_a_folder_with_the_same_files_is_the_same_tokenizer(tmp_path: Path) -> None:
    other = Tokenizer(_copy(tmp_path))
    assert other.encode("hello there") == TOKENIZER.encode("hello there")
    assert other.eos_token_id == TOKENIZER.eos_token_id


def test_an_end_token_written_as_an_object_is_read(tmp_path: Path) -> None:
    folder = _copy(tmp_path, eos_token={"content": "<|endoftext|>", "lstrip": False})
    assert Tokenizer(str(folder)).eos_token_id == TOKENIZER.vocab_size - 3


def test_a_template_file_beside_the_configuration_wins(tmp_path: Path) -> None:
    (_copy(tmp_path) / "chat_template.jinja").write_text("{{ messages[0].content }}{{ eos_token }}")
    assert Tokenizer(tmp_path).render_chat([{"role": "user", "content": "hi"}]) == "hi<|im_end|>"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eos_token": None}, "eos_token None is not in the vocabulary"),
        ({"eos_token": "</s>"}, "eos_token '</s>' is not in the vocabulary"),
        ({"chat_template": [{"name": "default"}]}, "chat_template must be one Jinja template"),
        ({"chat_template": "{% for %}"}, "chat template, line 1"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        Tokenizer(_copy(tmp_path, **changes))
    assert caught.value.problems[0].path == "tokenizer"


def test_a_folder_without_usable_files_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"tokenizer_config\.json: No such file"):
        Tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(InvalidInput, match="must hold an object"):
        Tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(InvalidInput, match="is not JSON"):
        Tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(InvalidInput, match=r"tokenizer\.json: No such file"):
        Tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": 1}')
    with pytest.raises(InvalidInput, match="is not a tokenizer file"):
        Tokenizer(tmp_path)


def test_a_vocabulary_that_is_not_byte_level_streams_through_the_library(tmp_path: Path) -> None:
    """Pieces of such a vocabulary depend on their neighbours: the first one of a text loses its space."""
    backend = Backend(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    text = "the cat and the hat and the bat"
    backend.train_from_iterator([text] * 9, trainers.BpeTrainer(vocab_size=60, special_tokens=["<unk>", "</s>"]))
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    tokenizer = Tokenizer(tmp_path)
    ids = tokenizer.encode(text)
    stream = tokenizer.text_stream()
    assert tokenizer.pieces is None
    assert tokenizer.piece_text(ids[0]) is None
    assert "".join(stream.step(token_id) for token_id in ids) == tokenizer.decode(ids) == text
