"""Deltas of text and stop strings, against the whole text looked at in one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghostfleet_simulator.text.detokenize import Detokenizer
from ghostfleet_simulator.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer()
EOS = TOKENIZER.eos_token_id
PARTIAL = [i for i in range(TOKENIZER.vocab_size) if TOKENIZER.piece_text(i) is None]
AB = st.text("ab ", max_size=30)
STOPS = st.lists(st.text("ab ", min_size=1, max_size=5), max_size=4)


def singly(text: str) -> list[int]:
    """A text as tokens of one byte each, so that nothing is merged."""
    return [token_id for char in text for token_id in TOKENIZER.encode(char)]


def expected(pieces: list[str], stops: list[str], min_tokens: int, include: bool) -> tuple[str, str | None, int]:
    """Text, stop string and tokens read, from looking at the whole text after every token."""
    text = ""
    for count, piece in enumerate(pieces, 1):
        before, text = len(text), text + piece
        if count <= min_tokens:
            continue
        ends = [
            (start + len(stop), order)
            for order, stop in enumerate(stops)
            for start in range(len(text))
            if text.startswith(stop, start) and before < start + len(stop) <= len(text)
        ]
        if ends:
            end, order = min(ends)
            return text[: end if include else end - len(stops[order])], stops[order], count
    return text, None, len(pieces)


@given(
    text=AB,
    stops=STOPS,
    min_tokens=st.integers(0, 12),
    include=st.booleans(),
    cuts=st.lists(st.integers(1, 5), min_size=1),
    merged=st.booleans(),
)
def test_stop_strings_end_the_text_where_looking_at_all_of_it_does(
    text: str, stops: list[str], min_tokens: int, include: bool, cuts: list[int], merged: bool
) -> None:
    """However the tokens are bundled, the deltas add up to the same text, and nothing sent is ever taken back."""
    ids = TOKENIZER.encode(text) if merged else singly(text)
    pieces = [TOKENIZER.piece_text(token_id) or "" for token_id in ids]
    whole, stop_string, count = expected(pieces, stops, min_tokens, include)
    detokenizer = Detokenizer(TOKENIZER, stops, min_tokens=min_tokens, include_stop_str_in_output=include)
    sent, rest, step = "", ids, 0
    while rest and detokenizer.stop_string is None:
        size = cuts[step % len(cuts)]
        step += 1
        sent += detokenizer.feed(rest[:size], finished=len(rest) <= size)
        rest = rest[size:]
        assert whole.startswith(sent)
    assert (sent, detokenizer.stop_string, detokenizer.token_count) == (whole, stop_string, count)


@given(
    ids=st.one_of(
        st.text(max_size=40).map(TOKENIZER.encode),
        st.lists(st.one_of(st.integers(0, TOKENIZER.vocab_size - 1), st.sampled_from(PARTIAL)), max_size=40),
    ),
    cuts=st.lists(st.integers(1, 4), min_size=1),
    skip=st.booleans(),
)
def test_without_stop_strings_text_comes_as_soon_as_its_last_character_is_whole(
    ids: list[int], cuts: list[int], skip: bool
) -> None:
    """What has been sent is the text of as many tokens as do not end in U+FFFD together, also at the very end."""
    detokenizer = Detokenizer(TOKENIZER, skip_special_tokens=skip)
    sent, whole, at, step = "", "", 0, 0
    while at < len(ids):
        size = cuts[step % len(cuts)]
        sent += detokenizer.feed(ids[at : at + size], finished=at + size >= len(ids))
        for end in range(at + 1, min(at + size, len(ids)) + 1):
            text = TOKENIZER.decode(ids[:end], skip_special_tokens=skip)
            whole = whole if text.endswith("\ufffd") else text
        at, step = at + size, step + 1
        assert sent == whole


def test_characters_are_held_back_so_that_no_part_of_a_stop_string_leaks() -> None:
    detokenizer = Detokenizer(TOKENIZER, ["END"])
    deltas = [detokenizer.feed([token_id]) for token_id in singly("abENcEND")]
    assert deltas == ["", "", "a", "b", "E", "N", "c", ""]
    assert detokenizer.stop_string == "END"


def test_with_the_stop_string_shown_nothing_is_held_back() -> None:
    detokenizer = Detokenizer(TOKENIZER, ["END"], include_stop_str_in_output=True)
    assert [detokenizer.feed([token_id]) for token_id in singly("aEND")] == ["a", "E", "N", "D"]
    assert detokenizer.stop_string == "END"


def test_what_was_held_back_comes_with_the_end() -> None:
    detokenizer = Detokenizer(TOKENIZER, ["STOP!"])
    assert detokenizer.feed(singly("abc")) == ""
    assert detokenizer.feed([EOS], stop_token=True) == "abc"
    assert detokenizer.token_count == 4


def test_of_two_matches_in_a_token_the_one_that_ends_first_counts() -> None:
    (token,) = TOKENIZER.encode(" the")
    for stops in (["the", "th"], ["th", "the"]):
        detokenizer = Detokenizer(TOKENIZER, stops)
        assert detokenizer.feed([token]) == " "
        assert detokenizer.stop_string == "th"
    tie = Detokenizer(TOKENIZER, ["he", "the"])
    assert (tie.feed([token]), tie.stop_string) == (" t", "he")


def test_a_match_before_min_tokens_does_not_count_but_one_that_ends_later_does() -> None:
    ids = singly("abab")
    detokenizer = Detokenizer(TOKENIZER, ["ab"], min_tokens=2)
    assert "".join(detokenizer.feed([token_id]) for token_id in ids) == "ab"
    assert (detokenizer.stop_string, detokenizer.token_count) == ("ab", 4)
    across = Detokenizer(TOKENIZER, ["bab"], min_tokens=3)
    assert (across.feed(ids), across.stop_string) == ("a", "bab")


def test_tokens_behind_the_match_are_not_read() -> None:
    detokenizer = Detokenizer(TOKENIZER, ["b"])
    assert detokenizer.feed(singly("abcd")) == "a"
    assert detokenizer.token_count == 2
    assert detokenizer.feed(singly("ef"), finished=True) == ""
    assert detokenizer.token_count == 2


@pytest.mark.parametrize(
    ("include", "skip", "text"),
    [(False, True, "a"), (False, False, "a"), (True, True, "a"), (True, False, "a<|im_end|>")],
)
def test_the_end_of_sequence_is_shown_only_where_both_options_say_so(include: bool, skip: bool, text: str) -> None:
    """vLLM leaves the token that ended a sequence out, unless `include_stop_str_in_output`; skipping is separate."""
    detokenizer = Detokenizer(TOKENIZER, include_stop_str_in_output=include, skip_special_tokens=skip)
    assert detokenizer.feed(singly("a")) + detokenizer.feed([EOS], stop_token=True) == text


def test_a_stop_token_is_shown_only_on_request() -> None:
    ids = singly("ab")
    assert Detokenizer(TOKENIZER).feed(ids, stop_token=True) == "a"
    assert Detokenizer(TOKENIZER, include_stop_str_in_output=True).feed(ids, stop_token=True) == "ab"


def test_a_character_in_several_tokens_comes_with_the_last_one() -> None:
    ids = TOKENIZER.encode("火")
    assert len(ids) == 3
    detokenizer = Detokenizer(TOKENIZER)
    assert [detokenizer.feed([token_id]) for token_id in ids] == ["", "", "火"]


def test_an_incomplete_character_at_the_end_is_never_shown() -> None:
    """vLLM's stream is not flushed, so its answers do not end in U+FFFD."""
    detokenizer = Detokenizer(TOKENIZER)
    assert detokenizer.feed(TOKENIZER.encode("a火")[:-1], finished=True) == "a"


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="stop cannot contain an empty string"):
        Detokenizer(TOKENIZER, ["a", ""])
