"""Made-up log probabilities behave as those of a model."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from ghostfleet_simulator.text.logprobs import Context, Vocabulary
from ghostfleet_simulator.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    return tokenizer.derived(Vocabulary)


def test_probabilities_at_a_position_are_a_part_of_one(vocabulary: Vocabulary) -> None:
    """Whatever was said and however many are told, they add up to less than 1, and ranks order them."""
    for said in range(300, 900, 7):
        found = Context(vocabulary, [1, 2, said]).candidates(said, 50)
        assert len(found) in (50, 51)
        assert len({c.token_id for c in found}) == len(found)
        assert sum(math.exp(c.logprob) for c in found) < 1
        by_rank = sorted(found, key=lambda c: c.rank)
        assert len({c.rank for c in found}) == len(found)
        logprobs = [c.logprob for c in by_rank]
        assert logprobs == sorted(logprobs, reverse=True)


def test_what_was_said_comes_first_and_the_others_follow_by_rank(vocabulary: Vocabulary) -> None:
    said, *others = Context(vocabulary, [5, 6]).candidates(777, 5)
    assert said.token_id == 777
    assert [c.rank for c in others] == [rank for rank in range(1, 6) if rank != said.rank]


def test_the_same_context_gives_the_same_and_another_something_else(vocabulary: Vocabulary) -> None:
    once = Context(vocabulary, [1, 2, 3]).candidates(400, 3)
    walked = Context(vocabulary, [1])
    walked.advance(2)
    walked.advance(3)
    assert walked.candidates(400, 3) == once
    assert Context(vocabulary, [1, 2, 4]).candidates(400, 3) != once


def test_most_tokens_are_the_likeliest_and_greedy_ones_always(vocabulary: Vocabulary) -> None:
    contexts = [Context(vocabulary, [number]) for number in range(400)]
    ranks = Counter(context.candidates(500, 0)[0].rank for context in contexts)
    assert 0.6 < ranks[1] / 400 < 0.9
    assert len(ranks) > 5
    assert {context.candidates(500, 0, greedy=True)[0].rank for context in contexts} == {1}


def test_the_whole_vocabulary_is_told_on_demand(vocabulary: Vocabulary, tokenizer: Tokenizer) -> None:
    found = Context(vocabulary, [1]).candidates(tokenizer.eos_token_id, -1)
    assert sorted(c.token_id for c in found) == list(range(tokenizer.vocab_size))
    assert sum(math.exp(c.logprob) for c in found) < 1


def test_named_tokens_follow_in_the_place_of_the_likeliest(vocabulary: Vocabulary) -> None:
    found = Context(vocabulary, [1]).candidates(500, 5, among=[7, 500, 9, 7])
    assert [c.token_id for c in found] == [500, 7, 9]
    assert found[0].logprob > found[1].logprob


def test_a_character_belongs_to_the_token_that_completes_it(vocabulary: Vocabulary, tokenizer: Tokenizer) -> None:
    """As vLLM corrects what single tokens decode to: the first part of a character has no text."""
    ids = tokenizer.encode("a 🦜 b", add_special_tokens=False)
    context, texts = Context(vocabulary), []
    for token_id in ids:
        texts.append(context.text(token_id))
        context.advance(token_id)
    assert "".join(texts) == "a 🦜 b"
    assert "" in texts
    assert not any("\ufffd" in text for text in texts)
