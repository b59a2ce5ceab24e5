"""Roles: the picker divides a request between servers that encode, prefill and decode, by the label of their pods."""

from __future__ import annotations

from typing import Any

from e2e.conftest import until
from e2e.schedulers.llm_d.conftest import Start
from e2e.schedulers.llm_d.fleets import MODEL, endpoint, objects, send
from e2e.schedulers.llm_d.roles import BY_PREFIX, ENCODERS, IMAGES, PREFILLER, dividing, profiles
from ghostfleet_operator.testing.plugin import StartFleet

CHAT = "/v1/chat/completions"
IMAGE = "data:image/png;base64,iVBORw0KGgo="
LONG = "once upon a time there was a scheduler " * 20


def chat(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": list(parts)}], "max_tokens": 3}


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def image(url: str = IMAGE) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def test_prefill_and_decode_are_told_apart_by_role(ghostfleet_fleet: StartFleet, start: Start) -> None:
    """A new prompt goes to a server for decode, with the one for prefill in a header; a cached one needs none."""
    fleet = ghostfleet_fleet(objects(decode={"role": "Decode", "replicas": 2}, prefill={"role": "Prefill"}))
    picker = start(fleet.endpoints_file, *dividing(prefill=BY_PREFIX), profiles=profiles("prefill", "decode"))
    body = {"model": MODEL, "prompt": LONG}
    first = picker.ask(body)
    assert first.endpoint in {endpoint(fleet, "decode-0"), endpoint(fleet, "decode-1")}
    assert first.headers[PREFILLER] == endpoint(fleet, "prefill-0")
    assert picker.value("disagg_decision_total", decision_type="prefill-decode") == 1
    until("it is known to be cached", lambda: PREFILLER not in picker.ask(body).headers)
    assert picker.ask(body).endpoint == first.endpoint
    until("that is counted", lambda: picker.value("disagg_decision_total", decision_type="decode-only") >= 2)


def test_a_server_without_a_role_takes_whole_requests(ghostfleet_fleet: StartFleet, start: Start) -> None:
    """The default role sets no label: the server decodes, and no prompt goes to it from elsewhere."""
    fleet = ghostfleet_fleet(objects(both={}, prefill={"role": "Prefill"}))
    picker = start(fleet.endpoints_file, *dividing(prefill=BY_PREFIX), profiles=profiles("prefill", "decode"))
    for number in range(10):
        decision = picker.ask({"model": MODEL, "prompt": f"{number} {LONG}"})
        assert decision.endpoint == endpoint(fleet, "both-0")
        assert decision.headers[PREFILLER] == endpoint(fleet, "prefill-0")


def test_images_go_by_way_of_an_encoder(ghostfleet_fleet: StartFleet, start: Start) -> None:
    """Texts do not. The encoder tells of the image where it is to be fetched, which the others take."""
    fleet = ghostfleet_fleet(
        objects(
            encode={"role": "Encode", "model": {"name": MODEL, "maxModelLen": 2048, "encoderOnly": True}},
            prefill={"role": "Prefill", "model": {"name": MODEL, "maxModelLen": 2048, "multimodal": True}},
            decode={"role": "Decode", "model": {"name": MODEL, "maxModelLen": 2048, "multimodal": True}},
        )
    )
    picker = start(
        fleet.endpoints_file,
        *dividing(prefill=BY_PREFIX, encode=IMAGES),
        profiles=profiles("encode", "prefill", "decode"),
    )
    seen = picker.ask(chat(text(LONG), image()), path=CHAT)
    assert seen.endpoint == endpoint(fleet, "decode-0")
    assert seen.headers[PREFILLER] == endpoint(fleet, "prefill-0")
    assert seen.headers[ENCODERS] == endpoint(fleet, "encode-0")
    assert picker.value("disagg_decision_total", decision_type="encode-prefill-decode") == 1
    # What a proxy makes of it: each item by itself to the encoder, and what that says to the others.
    told = send(seen.headers[ENCODERS], chat(image()) | {"max_tokens": 1}, CHAT)["ec_transfer_params"]
    assert told
    for place in (seen.headers[PREFILLER], seen.endpoint):
        send(place, chat(text(LONG), image()) | {"ec_transfer_params": told}, CHAT)
    assert fleet.taken() == {"encode-0": 1, "prefill-0": 1, "decode-0": 1}
    read = picker.ask(chat(text(f"other {LONG}")), path=CHAT)
    assert ENCODERS not in read.headers
    assert read.headers[PREFILLER] == endpoint(fleet, "prefill-0")
