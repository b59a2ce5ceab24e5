"""Prefix affinity without KV events: the picker goes by what it sent where, in blocks that it reads from `/metrics`."""

from __future__ import annotations

from e2e.conftest import until
from e2e.schedulers.llm_d.conftest import Start
from e2e.schedulers.llm_d.fleets import MODEL, endpoints, objects, send
from ghostfleet_operator.testing.plugin import StartFleet

PLUGINS = ("approx-prefix-cache-producer", "prefix-cache-scorer")
BLOCK = 64
"""Tokens of the picker's blocks at least, which are some four characters each."""


def body(prompt: str) -> dict[str, object]:
    return {"model": MODEL, "prompt": prompt, "max_tokens": 2}


def text(seed: str, characters: int) -> str:
    return " ".join(f"{seed}{number}" for number in range(characters))[:characters]


def test_a_prefix_goes_where_it_went_and_is_found_there(ghostfleet_fleet: StartFleet, start: Start) -> None:
    """Ten prompts that begin alike go to one server, which has it in its cache; short ones are shared out."""
    fleet = ghostfleet_fleet(objects(alpha={"replicas": 3, "api": {"enablePromptTokensDetails": True}}))
    picker = start(fleet.endpoints_file, *PLUGINS)
    shared = text("shared", 1600)
    first = picker.ask(body(shared)).endpoint
    assert first in endpoints(fleet)
    send(first, body(shared))
    until("it is known to be there", lambda: picker.scores(body(f"{shared} and then"))[first] > 0.8)
    for number in range(10):
        longer = body(f"{shared} and then {number}")
        assert picker.ask(longer).endpoint == first
        usage = send(first, longer)["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] >= 0.7 * usage["prompt_tokens"], usage
    others = {picker.ask(body(text(f"other{number}-", 100))).endpoint for number in range(60)}
    assert others == endpoints(fleet)


def test_what_a_small_cache_cannot_hold_is_forgotten(ghostfleet_fleet: StartFleet, start: Start) -> None:
    """The picker remembers as many blocks of a server as that says it has: here 40."""
    fleet = ghostfleet_fleet(objects(alpha={"kvCache": {"blocks": 41}, "model": {"name": MODEL, "maxModelLen": 640}}))
    picker = start(fleet.endpoints_file, *PLUGINS)
    (only,) = endpoints(fleet)
    prompt = body(text("first", BLOCK * 4 * 8))
    picker.ask(prompt)
    until("it is known", lambda: picker.scores(prompt)[only] == 1)
    for number in range(10):
        picker.ask(body(text(f"filler{number}-", BLOCK * 4 * 8)))
    until("it is forgotten", lambda: picker.scores(prompt)[only] < 1)
