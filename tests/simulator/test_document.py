"""Documents: how they are read, what their hash covers, and when one replaces another."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ghostfleet_simulator.config import LIVE_FIELDS, ServerConfig
from ghostfleet_simulator.document import Document, InForce, Refused, differing, live_hash, restart_hash
from ghostfleet_simulator.problems import InvalidInput, validated


def _config(latency: Any = 20, seqs: int = 256, **blocks: Any) -> ServerConfig:
    raw = {
        "model": {"name": "m"},
        "scheduling": {"maxNumSeqs": seqs},
        "profile": {"simple": {"interTokenLatency": latency}},
        **blocks,
    }
    return validated(ServerConfig, raw)


def _problems(raw: object) -> list[str]:
    with pytest.raises(InvalidInput) as caught:
        Document.parse(raw)
    return [str(problem) for problem in caught.value.problems]


latencies = st.integers(0, 10**9).map(lambda us: f"{us}us")
configs = st.builds(_config, latencies, st.integers(1, 512))
documents = st.builds(Document.of, configs, st.none() | st.integers(0, 2**63 - 1))


@given(documents)
def test_a_document_survives_being_written_and_read(document: Document) -> None:
    assert Document.parse(json.loads(json.dumps(document.to_json()))) == document


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (_config(20), _config("20ms")),
        (_config(1500), _config("1.50s")),
        (
            _config(failures=[{"type": "RateLimit", "probability": "5%"}]),
            _config(failures=[{"type": "RateLimit", "probability": "0.050"}]),
        ),
        (_config(), _config(answers={"mode": "Random"}, listen={"port": 8000})),
    ],
)
def test_two_spellings_of_one_configuration_have_one_hash(one: ServerConfig, other: ServerConfig) -> None:
    assert live_hash(one) == live_hash(other)
    assert restart_hash(one) == restart_hash(other)


def test_each_hash_covers_its_own_part() -> None:
    assert live_hash(_config(20, seqs=1)) == live_hash(_config(20, seqs=2))
    assert live_hash(_config(20)) != live_hash(_config(21))
    assert restart_hash(_config(20)) == restart_hash(_config(21))
    assert restart_hash(_config(20, seqs=1)) != restart_hash(_config(20, seqs=2))


def test_the_hash_is_that_of_the_canonical_json_of_what_is_not_default() -> None:
    # Operators and servers of different versions must agree on it, so its recipe may not change.
    text = '{"answers":{"mode":"Echo"},"profile":{"simple":{"interTokenLatency":"12.5ms"}}}'
    config = _config("12500us", answers={"mode": "Echo"})
    assert live_hash(config) == "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def test_a_difference_that_needs_a_restart_is_named_by_its_path() -> None:
    one = _config(20, seqs=1, listen={"port": 8000})
    other = _config(99, seqs=2, listen={"port": 8001, "adminPort": 9101})
    assert differing(one, other) == ["listen.adminPort", "listen.port", "scheduling.maxNumSeqs"]
    assert differing(one, _config(99, seqs=1)) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"revison": 1}, "revison: unknown field; did you mean 'revision'?"),
        ({"x": 1}, "x: unknown field; allowed are revision, hash, config"),
        ({"revision": -1}, "revision: is not a whole number"),
        ({"revision": True}, "revision: is not a whole number"),
        ({"revision": "7"}, "revision: is not a whole number"),
        ({"revision": 2**63}, "revision: is not a whole number"),
        ({"hash": "sha256:0"}, "hash: is not the hash of the live part of config, which is sha256:"),
        ({"config": {}}, "config.model: required, but not given"),
        ({"config": None}, "config: must be an object with named fields"),
    ],
)
def test_a_wrong_document_is_refused_with_the_path(change: dict[str, Any], expected: str) -> None:
    (problem,) = _problems({"revision": 1, "config": {"model": {"name": "m"}}, **change})
    assert problem.startswith(expected)


@pytest.mark.parametrize("raw", [None, [], "x", 1])
def test_only_an_object_is_a_document(raw: object) -> None:
    assert _problems(raw) == ["a document is an object with the fields revision, hash and config"]


def test_a_document_tells_all_that_is_wrong_with_it() -> None:
    assert len(_problems({"revision": -1, "hsh": "", "config": {"model": {}}})) == 3
    assert _problems({"revision": 1}) == ["config: required, but not given"]


def _start(latency: Any = 20, revision: int | None = 7) -> InForce:
    return InForce.start(Document.of(_config(latency), revision))


def test_a_newer_revision_replaces() -> None:
    after = _start().offer(Document.of(_config(30), 9))
    assert (after.revision, after.document.hash) == (9, live_hash(_config(30)))


def test_an_older_revision_is_refused_even_with_the_same_content() -> None:
    with pytest.raises(Refused, match="revision 6 is older than revision 7, which is in force"):
        _start().offer(Document.of(_config(20), 6))


def test_a_revision_never_means_two_contents() -> None:
    with pytest.raises(Refused, match="revision 7 was first given with hash sha256:"):
        _start().offer(Document.of(_config(30), 7))


def test_the_same_document_again_changes_nothing() -> None:
    state = _start()
    assert state.offer(Document.of(_config(20), 7)) is state
    assert state.offer(Document.of(_config(20))) is state


def test_a_document_without_a_revision_is_the_next_where_it_differs() -> None:
    after = _start().offer(Document.of(_config(30)))
    assert (after.revision, after.first_hash) == (8, live_hash(_config(30)))


def test_a_server_that_starts_without_a_revision_starts_with_zero() -> None:
    assert _start(revision=None).revision == 0
    assert _start(revision=None).offer(Document.of(_config(30), 1)).revision == 1


@pytest.mark.parametrize("revision", [None, 7, 8])
def test_the_restart_only_part_is_kept_for_the_next_start(revision: int | None) -> None:
    # It moves no hash and so no revision; still the server must be able to say that a restart is pending.
    after = _start().offer(Document.of(_config(20, seqs=9), revision))
    assert after.document.config.scheduling.max_num_seqs == 9
    assert after.revision == (revision or 7)
    assert after.first_hash == _start().first_hash


def test_a_patch_changes_the_hash_and_not_the_revision() -> None:
    after = _start().patch({"profile": {"simple": {"interTokenLatency": "30ms"}}})
    assert after.revision == 7
    assert after.document.hash == live_hash(_config(30))
    assert after.first_hash == live_hash(_config(20))


def test_the_original_document_ends_a_patch() -> None:
    patched = _start().patch({"answers": {"mode": "Echo"}})
    assert patched.offer(Document.of(_config(20), 7)) == _start()


def test_a_patched_document_is_not_a_new_content_of_its_revision() -> None:
    patched = _start().patch({"answers": {"mode": "Echo"}})
    with pytest.raises(Refused, match="a changed document needs a greater revision"):
        patched.offer(patched.document)


def test_a_patch_merges_objects_replaces_lists_and_takes_null_for_the_default() -> None:
    failures = [{"type": "RateLimit", "probability": "0.5"}]
    state = _start().patch({"failures": failures, "profile": {"simple": {"timeToFirstToken": "1s"}}})
    simple = state.document.config.profile.simple
    assert (str(simple.inter_token_latency), str(simple.time_to_first_token)) == ("20ms", "1s")
    assert len(state.document.config.failures) == 1
    again = state.patch({"failures": [], "profile": {"simple": None}})
    assert again.document.config.failures == ()
    assert str(again.document.config.profile.simple.inter_token_latency) == "0ms"


@pytest.mark.parametrize(
    ("patch", "expected"),
    [
        ({"listen": {"port": 1}}, "listen: needs a restart and cannot be patched; live fields are"),
        ({"profil": {}}, "profil: unknown field; did you mean 'profile'?"),
        ({"profile": {"simple": {"tick": "1"}}, "kvCache": {}}, "kvCache: needs a restart"),
        ({"profile": {"simple": {"tick": "soon"}}}, "profile.simple.tick: 'soon' is not a duration"),
        ({"profile": 5}, "profile: must be an object with named fields"),
        ([], "a patch is an object with some of the fields"),
    ],
)
def test_a_wrong_patch_is_refused_with_the_path(patch: object, expected: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        _start().patch(patch)
    assert str(caught.value).startswith(expected)


@given(documents, latencies)
def test_what_is_in_force_survives_being_kept_in_a_file(document: Document, latency: str) -> None:
    state = InForce.start(document).patch({"profile": {"simple": {"interTokenLatency": latency}}})
    assert InForce.from_json(json.loads(json.dumps(state.to_json()))) == state


@pytest.mark.parametrize("raw", [None, [], "x", {}, {"firstHash": 3}, {"config": {"model": {"name": "m"}}, "x": 1}])
def test_a_damaged_file_is_not_taken_for_a_state(raw: object) -> None:
    with pytest.raises(InvalidInput):
        InForce.from_json(raw)


@pytest.mark.parametrize("revision", [None, 6, 7])
def test_a_restart_keeps_a_patch_and_takes_over_what_waited_for_it(revision: int | None) -> None:
    kept = _start().patch({"profile": {"simple": {"interTokenLatency": "30ms"}}})
    after = kept.resumed(Document.of(_config(20, seqs=9), revision))
    assert (after.revision, after.document.hash, after.first_hash) == (7, live_hash(_config(30)), kept.first_hash)
    assert after.document.config == _config(30, seqs=9)


def test_a_restart_with_a_newer_document_starts_with_it() -> None:
    newer = Document.of(_config(40), 8)
    assert _start().patch({"answers": {"mode": "Echo"}}).resumed(newer) == InForce.start(newer)


class Replacement(RuleBasedStateMachine):
    """Any mix of documents and patches, against the rule in prose: what is in force, and under which number."""

    @initialize(latency=latencies, revision=st.none() | st.integers(0, 5))
    def begin(self, latency: str, revision: int | None) -> None:
        self.state = _start(latency, revision)
        self.first_seen = {self.state.revision: self.state.document.hash}

    def _moved_to(self, state: InForce) -> None:
        assert state.revision >= self.state.revision, "a revision never falls"
        self.state = state

    @rule(latency=latencies, seqs=st.integers(1, 3), revision=st.none() | st.integers(0, 12))
    def offer(self, latency: str, seqs: int, revision: int | None) -> None:
        document = Document.of(_config(latency, seqs), revision)
        before = self.state
        try:
            after = before.offer(document)
        except Refused:
            assert revision is not None
            assert revision < before.revision or self.first_seen[revision] != document.hash
            return
        self._moved_to(after)
        assert after.document.config == document.config, "what was accepted is in force, whole"
        if revision is not None:
            assert after.revision == revision
        if after.revision > before.revision:
            self.first_seen[after.revision] = document.hash

    @rule(ahead=st.integers(0, 2))
    def offer_the_first_document_again(self, ahead: int) -> None:
        document = Document.of(_config("7us"), self.state.revision + ahead)
        if ahead or self.first_seen[self.state.revision] == document.hash:
            self._moved_to(self.state.offer(document))
            self.first_seen.setdefault(self.state.revision, document.hash)
            assert self.state.offer(document) is self.state, "offered twice is offered once"

    @rule(latency=latencies)
    def patch(self, latency: str) -> None:
        before = self.state
        self._moved_to(before.patch({"profile": {"simple": {"interTokenLatency": latency}}}))
        assert self.state.revision == before.revision
        assert str(self.state.document.config.profile.simple.inter_token_latency) == str(
            _config(latency).profile.simple.inter_token_latency
        )
        assert self.state.document.config.scheduling == before.document.config.scheduling

    @invariant()
    def hash_is_true(self) -> None:
        if hasattr(self, "state"):
            assert self.state.document.hash == live_hash(self.state.document.config)
            assert self.state.first_hash == self.first_seen[self.state.revision]


TestReplacement = Replacement.TestCase


def test_every_live_field_can_be_patched() -> None:
    patch = {
        "profile": {"simple": {"tick": "2ms"}},
        "failures": [{"type": "ServerError", "probability": "1"}],
        "failureHeaders": True,
        "answers": {"mode": "Echo"},
        "fakeMetrics": {"vllm:num_requests_running": "1"},
        "lora": {"maxLoras": 2},
    }
    assert set(patch) == set(LIVE_FIELDS)
    after = _start().patch(patch)
    for field, value in patch.items():
        assert after.document.to_json()["config"][field] != _start().document.to_json()["config"][field], value
