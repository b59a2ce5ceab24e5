"""Session affinity: a client that brings back what the picker put into its answer is served where it was served."""

from __future__ import annotations

import json
from collections.abc import Mapping

from e2e.conftest import until
from e2e.schedulers.llm_d.conftest import Start
from e2e.schedulers.llm_d.fleets import ASK, endpoint, endpoints, objects, send
from e2e.schedulers.llm_d.picker import LlmdPicker
from ghostfleet_operator.testing.plugin import StartFleet

TOKEN = "x-session-token"
FLAGS = ("--allow-experimental-plugins",)


def served(picker: LlmdPicker, headers: Mapping[str, str]) -> tuple[str | None, Mapping[str, str]]:
    """Send a request on its whole way: who answered, and the headers that the picker put on the answer."""
    decision = picker.ask(ASK, headers=headers, hold="session")
    answer = send(decision.endpoint, ASK)
    passed = picker.answer("session", {"content-type": "application/json"}, [json.dumps(answer)])
    return decision.endpoint, passed.headers


def test_a_session_stays_where_it_began(ghostfleet_fleet: StartFleet, start: Start) -> None:
    """By a token that names the server; when that is gone the session goes on elsewhere."""
    fleet = ghostfleet_fleet(objects(alpha={"replicas": 3}))
    picker = start(fleet.endpoints_file, "session-affinity-scorer", flags=FLAGS)
    first: str | None = None
    headers: Mapping[str, str] = {}
    while first != endpoint(fleet, "alpha-2"):
        first, headers = served(picker, {})
    session = {TOKEN: headers[TOKEN]}
    for _ in range(10):
        where, headers = served(picker, session)
        assert (where, headers[TOKEN]) == (first, session[TOKEN])
    assert set(picker.spread(ASK, 60)) == endpoints(fleet)
    fleet.apply(objects(alpha={"replicas": 2}))
    until("another one takes it", lambda: picker.ask(ASK, headers=session).endpoint != first)
    where, headers = served(picker, session)
    assert where in endpoints(fleet)
    assert headers[TOKEN] != session[TOKEN]


def test_a_client_s_own_id_is_a_session(ghostfleet_fleet: StartFleet, start: Start) -> None:
    """The picker remembers who served it."""
    fleet = ghostfleet_fleet(objects(alpha={"replicas": 3}))
    by_id = {"type": "session-affinity-scorer", "parameters": {"strategy": "session_id"}}
    picker = start(fleet.endpoints_file, by_id, flags=FLAGS)
    sessions = [{"x-session-id": f"session-{number}"} for number in range(12)]
    places = [served(picker, session)[0] for session in sessions]
    assert len(set(places)) > 1
    for session, place in zip(sessions, places, strict=True):
        assert picker.spread(ASK, 10, headers=session) == {place: 10}
