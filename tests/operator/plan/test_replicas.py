"""Plans: replicas, the document they run and its revision."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tests.operator.objects import planned, resolved

from ghostfleet_simulator.document import Document

REVISIONS = st.integers(0, 2**40)


def test_the_first_document_has_revision_1() -> None:
    assert planned().revision == 1


def test_the_same_input_gives_the_same_plan() -> None:
    first = planned()
    assert planned(current=first.document) == first == planned(current=first.document, floor=first.revision)


@given(REVISIONS, REVISIONS)
def test_a_document_that_did_not_change_keeps_its_revision_unless_something_is_ahead(at: int, floor: int) -> None:
    current = Document.of(resolved().config, at)
    found = planned(current=current, floor=floor).revision
    assert found == at if at >= floor else found == floor + 1


@given(REVISIONS, REVISIONS)
def test_a_changed_document_is_newer_than_all_that_was_ever_seen(at: int, floor: int) -> None:
    current = Document.of(resolved().config, at)
    found = planned(current=current, floor=floor, answers={"mode": "Echo"})
    assert found.revision == max(at, floor) + 1
    assert found.document.hash != current.hash


@given(REVISIONS)
def test_a_lost_document_is_rebuilt_above_what_pods_and_status_report(floor: int) -> None:
    assert planned(current=None, floor=floor).revision == floor + 1


def test_a_live_change_does_not_touch_the_restart_hash_nor_the_other_way_round() -> None:
    base = planned()
    live = planned(failures=[{"type": "RateLimit", "probability": "1"}])
    fixed = planned(scheduling={"maxNumSeqs": 1})
    assert (live.restart_hash, fixed.document.hash) == (base.restart_hash, base.document.hash)
    assert live.document.hash != base.document.hash
    assert fixed.restart_hash != base.restart_hash


def test_a_change_that_needs_a_restart_is_in_the_document_under_the_same_revision() -> None:
    current = planned().document
    changed = planned(current=current, scheduling={"maxNumSeqs": 1})
    assert changed.revision == current.revision
    assert changed.document.config.scheduling.max_num_seqs == 1


def test_a_suspended_server_has_no_replicas() -> None:
    assert planned(replicas=3).replicas == 3
    assert planned(replicas=3, suspend=True).replicas == 0
