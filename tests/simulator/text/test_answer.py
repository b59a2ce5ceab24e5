"""What a server answers: lengths, endings, seeds, and text that reads back as the tokens it was made of."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghostfleet_simulator.text.answer import Answer, Answers, EchoAnswers, RandomAnswers, Sentences
from ghostfleet_simulator.text.detokenize import Detokenizer
from ghostfleet_simulator.text.tokenizer import SHIPPED, Tokenizer

TOKENIZER = Tokenizer()
EOS = TOKENIZER.eos_token_id
SENTENCES = Sentences(TOKENIZER)
RANDOM = RandomAnswers(TOKENIZER, 1, SENTENCES)
ECHO = EchoAnswers(TOKENIZER)
STRATEGIES = st.sampled_from([RANDOM, ECHO])
PROMPT = TOKENIZER.encode("Say something about the weather — größer 火车.")
COMMON = st.sampled_from(sorted(SENTENCES.vocabulary) + PROMPT)


def shown(answer: Answer) -> list[int]:
    """Tokens of the answer that have text."""
    ids = answer.token_ids(0, answer.length)
    return ids if answer.finish_reason == "length" else ids[:-1]


def text_of(answer: Answer) -> str:
    return str(json.loads(b'"' + answer.text(0, answer.length) + b'"'))


# --- any way of answering ------------------------------------------------------------------------


@given(
    answers=STRATEGIES,
    echo=st.one_of(st.text(max_size=40), st.just(PROMPT)),
    max_tokens=st.integers(1, 300),
    minimum=st.integers(0, 300),
    ignore_eos=st.booleans(),
    given_limit=st.booleans(),
    stops=st.lists(COMMON, max_size=5),
    index=st.integers(0, 1000),
)
def test_an_answer_ends_as_vllm_ends_it(
    answers: Answers,
    echo: str | list[int],
    max_tokens: int,
    minimum: int,
    ignore_eos: bool,
    given_limit: bool,
    stops: list[int],
    index: int,
) -> None:
    """The rules of `check_stop` hold for every token of any answer."""
    min_tokens = min(minimum, max_tokens)
    answer = answers.answer(
        PROMPT,
        echo,
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        ignore_eos=ignore_eos,
        stop_token_ids=stops,
        max_tokens_given=given_limit,
        request_index=index,
    )
    ids = answer.token_ids(0, answer.length)
    assert len(ids) == answer.length
    assert ids == [token_id for i in range(answer.length) for token_id in answer.token_ids(i, i + 1)]
    assert 1 <= answer.length <= max_tokens
    *before, last = ids
    ending = {*stops} if ignore_eos else {*stops, EOS}
    assert EOS not in before
    assert not set(before) & set(stops)
    if last in ending:
        assert answer.length > min_tokens
        assert answer.finish_reason == "stop"
        assert answer.stop_reason == (None if last == EOS and not ignore_eos else last)
        assert answer.fragment(answer.length - 1) == b""
    else:
        assert answer.finish_reason == "length"
        assert answer.stop_reason is None
        assert answer.length == max_tokens
    with pytest.raises(IndexError):
        answer.fragment(answer.length)


@given(answers=STRATEGIES, echo=st.text(max_size=60), max_tokens=st.integers(1, 150), ignore_eos=st.booleans())
def test_fragments_are_the_deltas_of_a_detokenizer(
    answers: Answers, echo: str, max_tokens: int, ignore_eos: bool
) -> None:
    answer = answers.answer(PROMPT, echo, max_tokens=max_tokens, ignore_eos=ignore_eos)
    detokenizer = Detokenizer(TOKENIZER)
    for index in range(answer.length):
        last = index == answer.length - 1 and answer.finish_reason == "stop"
        delta = detokenizer.feed(answer.token_ids(index, index + 1), stop_token=last)
        assert json.loads(b'"' + answer.fragment(index) + b'"') == delta


@given(st.lists(st.integers(0, 399), max_size=10), st.integers(1, 400))
def test_tokens_are_the_same_in_whatever_order_they_are_asked_for(order: list[int], length: int) -> None:
    straight = RANDOM.answer(PROMPT, "", max_tokens=length, ignore_eos=True)
    jumping = RANDOM.answer(PROMPT, "", max_tokens=length, ignore_eos=True)
    ids = [token_id for index in range(length) for token_id in straight.token_ids(index, index + 1)]
    fragments = [straight.fragment(index) for index in range(length)]
    for index in order:
        if index < length:
            assert jumping.fragment(index) == fragments[index]
            assert jumping.token_ids(index, index + 1) == [ids[index]]
    assert jumping.token_ids(0, length) == ids
    assert jumping.text(0, 7) + jumping.text(7, 10**9) == b"".join(fragments)
    assert straight.token_ids(5, 5) == []


@pytest.mark.parametrize("answers", [RANDOM, ECHO])
def test_a_limit_below_one_is_refused(answers: Answers) -> None:
    with pytest.raises(ValueError, match=r"max_tokens must be at least 1, got 0\."):
        answers.answer(PROMPT, "", max_tokens=0)


def test_where_every_token_is_a_stop_token_the_answer_goes_on_to_min_tokens_all_the_same() -> None:
    every = range(TOKENIZER.vocab_size)
    answer = RANDOM.answer(PROMPT, "", max_tokens=10, min_tokens=3, ignore_eos=True, stop_token_ids=every)
    assert (answer.length, answer.finish_reason) == (4, "stop")


# --- echo ----------------------------------------------------------------------------------------


@given(st.text(min_size=1, max_size=80))
def test_echo_says_the_text_and_ends(text: str) -> None:
    ids = TOKENIZER.encode(text)
    answer = ECHO.answer([1], text, max_tokens=1000)
    assert answer.token_ids(0, answer.length) == [*ids, EOS]
    assert text_of(answer) == text.rstrip("\ufffd") if text.endswith("\ufffd") else text


def test_echo_takes_tokens_as_they_are() -> None:
    answer = ECHO.answer(PROMPT, PROMPT, max_tokens=1000)
    assert answer.token_ids(0, 1000) == [*PROMPT, EOS]
    assert text_of(answer) == TOKENIZER.decode(PROMPT)


def test_echo_is_cut_at_the_limit() -> None:
    for limit in (1, 5, len(PROMPT)):
        answer = ECHO.answer(PROMPT, PROMPT, max_tokens=limit)
        assert answer.token_ids(0, 1000) == PROMPT[:limit]
        assert answer.finish_reason == "length"


def test_echo_repeats_itself_where_it_must_not_end() -> None:
    answer = ECHO.answer(PROMPT, PROMPT, max_tokens=200, ignore_eos=True)
    assert answer.token_ids(0, 200) == (PROMPT * 20)[:200]
    answer = ECHO.answer(PROMPT, PROMPT, max_tokens=200, min_tokens=100)
    assert answer.token_ids(0, 200) == [*(PROMPT * 20)[:100], EOS]


def test_echo_of_nothing_ends_at_once_or_says_full_stops() -> None:
    assert ECHO.answer(PROMPT, "", max_tokens=9).token_ids(0, 9) == [EOS]
    assert text_of(ECHO.answer(PROMPT, "", max_tokens=3, ignore_eos=True)) == "..."
    assert text_of(ECHO.answer(PROMPT, [EOS], max_tokens=9, min_tokens=2)) == ".."


def test_echo_leaves_special_and_unknown_tokens_out() -> None:
    hi = TOKENIZER.encode("hi")
    assert shown(ECHO.answer(PROMPT, "<|im_start|>hi<|im_end|>", max_tokens=99)) == hi
    assert shown(ECHO.answer(PROMPT, [EOS, *hi, 4096, 99999], max_tokens=99)) == hi


def test_a_character_cut_by_the_limit_is_not_shown() -> None:
    ids = TOKENIZER.encode("a火")
    assert len(ids) == 4
    assert text_of(ECHO.answer([1], "a火", max_tokens=3)) == "a"
    answer = ECHO.answer([1], "a火", max_tokens=9)
    assert [answer.fragment(i) for i in range(5)] == [b"a", b"", b"", "火".encode(), b""]


# --- random --------------------------------------------------------------------------------------


def test_every_sentence_is_made_of_whole_characters() -> None:
    for text in (SHIPPED / "sentences.txt").read_text(encoding="utf-8").splitlines():
        assert all(TOKENIZER.piece_text(token_id) for token_id in TOKENIZER.encode(" " + text))


def test_any_two_sentences_read_back_as_their_own_tokens() -> None:
    """What joins is the end of one and the beginning of the next, so each end is tried with each beginning."""
    texts = (SHIPPED / "sentences.txt").read_text(encoding="utf-8").splitlines()
    ends = {text.split(" ")[-1] for text in texts}
    beginnings = {" " + text.split(" ")[0] for text in texts}
    for end in ends:
        for beginning in beginnings:
            assert TOKENIZER.encode(end + beginning) == TOKENIZER.encode(end) + TOKENIZER.encode(beginning)


@given(st.integers(0, 2**63), st.integers(1, 400), st.booleans())
def test_a_random_answer_reads_back_as_its_own_tokens(seed: int, max_tokens: int, ignore_eos: bool) -> None:
    """Load generators count tokens by encoding the text they got; wherever an answer ends, the counts agree."""
    answer = RANDOM.answer(PROMPT, "", max_tokens=max_tokens, seed=seed, ignore_eos=ignore_eos)
    assert TOKENIZER.encode(text_of(answer)) == shown(answer)


def test_a_random_answer_is_made_of_sentences() -> None:
    texts = set((SHIPPED / "sentences.txt").read_text(encoding="utf-8").splitlines())
    said = text_of(RANDOM.answer(PROMPT, "", max_tokens=2000, ignore_eos=True, request_index=3))
    whole = []
    while match := next((text for text in texts if said.startswith(text)), None):
        whole.append(match)
        said = said[len(match) + 1 :]
    assert len(whole) > 100
    assert len(set(whole)) > 70
    assert all(first != second for first, second in itertools.pairwise(whole))
    # Only the sentence that the limit cut is left.
    assert any(text.startswith(said) for text in texts)


def test_lengths_are_those_drawn_with_the_end_of_sequence_counted() -> None:
    drawn = Counter(RANDOM.answer(PROMPT, "", max_tokens=101, request_index=i).length for i in range(10_000))
    by_limit = sum(
        RANDOM.answer(PROMPT, "", max_tokens=101, request_index=i).finish_reason == "length" for i in range(2000)
    )
    assert by_limit / 2000 == pytest.approx(0.15, abs=0.03)
    assert sum(drawn[n] for n in range(2, 21)) / 10_000 == pytest.approx(0.20, abs=0.02)
    assert sum(drawn[n] for n in range(21, 41)) / 10_000 == pytest.approx(0.30, abs=0.02)
    # An answer of nothing but the end of sequence is not given; it gets a word.
    assert drawn[1] == 0


def test_the_end_of_sequence_is_one_of_the_tokens_drawn() -> None:
    """Of 1 to 4 tokens, drawn evenly: 1 becomes 2, a word and the end; 4 is the limit, and so has no end."""
    drawn = Counter(
        (answer.length, answer.finish_reason)
        for answer in (RANDOM.answer(PROMPT, "", max_tokens=4, request_index=i) for i in range(4000))
    )
    shares = {how: count / 4000 for how, count in drawn.items()}
    assert shares == pytest.approx({(2, "stop"): 0.5, (3, "stop"): 0.25, (4, "length"): 0.25}, abs=0.03)


def test_a_limit_of_one_token_gives_one_that_is_text() -> None:
    for index in range(50):
        answer = RANDOM.answer(PROMPT, "", max_tokens=1, request_index=index)
        assert (answer.length, answer.finish_reason) == (1, "length")
        assert answer.fragment(0)


def test_without_a_limit_answers_are_around_40_tokens_long() -> None:
    lengths = [
        RANDOM.answer(PROMPT, "", max_tokens=30_000, max_tokens_given=False, request_index=i).length
        for i in range(3000)
    ]
    assert sum(lengths) / 3000 == pytest.approx(41.1, abs=1.5)


def test_a_seeded_request_gets_the_same_answer_from_every_server() -> None:
    other = RandomAnswers(Tokenizer(), 999)
    for seed in (0, 7, -12, 2**63 - 1):
        one = RANDOM.answer(PROMPT, "", max_tokens=80, seed=seed, request_index=1)
        two = other.answer(list(PROMPT), "", max_tokens=80, seed=seed, request_index=77)
        assert (one.length, one.token_ids(0, 80)) == (two.length, two.token_ids(0, 80))


def _said(
    answers: RandomAnswers,
    prompt: list[int] = PROMPT,
    *,
    seed: int | None = None,
    request_index: int = 0,
    choice_index: int = 0,
) -> list[int]:
    return answers.answer(
        prompt,
        "",
        max_tokens=80,
        ignore_eos=True,
        seed=seed,
        request_index=request_index,
        choice_index=choice_index,
    ).token_ids(0, 80)


def test_what_a_seeded_answer_depends_on() -> None:
    said = _said(RANDOM, seed=5)
    assert said != _said(RANDOM, seed=6)
    assert said != _said(RANDOM, [*PROMPT, 70], seed=5)
    assert said != _said(RANDOM, seed=5, choice_index=1)
    # vLLM gives choice i the seed + i.
    assert _said(RANDOM, seed=5, choice_index=1) == _said(RANDOM, seed=6)


def test_what_an_unseeded_answer_depends_on() -> None:
    said = _said(RANDOM, request_index=5)
    assert said == _said(RandomAnswers(TOKENIZER, 1), request_index=5)
    assert said == _said(RANDOM, request_index=5, seed=-1)
    assert said != _said(RandomAnswers(TOKENIZER, 2), request_index=5)
    assert said != _said(RANDOM, request_index=6)
    assert said != _said(RANDOM, request_index=5, choice_index=1)


def test_answers_do_not_depend_on_the_process() -> None:
    code = (
        "from ghostfleet_simulator.text.answer import RandomAnswers\n"
        "from ghostfleet_simulator.text.tokenizer import Tokenizer\n"
        "answer = RandomAnswers(Tokenizer(), 1).answer([1, 2], '', max_tokens=50, seed=3, ignore_eos=True)\n"
        "print(answer.text(0, 50).decode())"
    )
    done = [
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert done[0] == done[1]
    assert len(done[0]) > 100


def test_a_long_answer_costs_nothing_until_it_is_read() -> None:
    """Only what is read is made, plus a little."""
    answer = RANDOM.answer(PROMPT, "", max_tokens=1_000_000, ignore_eos=True)
    assert answer.length == 1_000_000
    assert len(answer._ids) == 0
    answer.token_ids(10, 11)
    assert len(answer._ids) < 200


def test_servers_that_share_a_tokenizer_share_its_sentences() -> None:
    """The second of many servers in a process costs no further memory."""
    tokenizer = Tokenizer()
    one, two = RandomAnswers(tokenizer, 1), RandomAnswers(tokenizer, 2)
    assert one._sentences is two._sentences
    assert RandomAnswers(Tokenizer(), 1)._sentences is not one._sentences


def test_no_sentence_comes_twice_in_a_row() -> None:
    answers = RandomAnswers(TOKENIZER, 0, Sentences(TOKENIZER, ["Ja.", "Nein."]))
    said = text_of(answers.answer(PROMPT, "", max_tokens=300, ignore_eos=True)).split(" ")
    assert len(said) > 50
    assert all(first != second for first, second in itertools.pairwise(said))


def test_sentences_of_ones_own() -> None:
    answers = RandomAnswers(TOKENIZER, 0, Sentences(TOKENIZER, ["Ja."]))
    said = answers.answer(PROMPT, "", max_tokens=len(TOKENIZER.encode("Ja. Ja.")), ignore_eos=True)
    assert text_of(said) == "Ja. Ja."
