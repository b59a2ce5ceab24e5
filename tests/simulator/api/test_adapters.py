"""LoRA adapters of a running server: live configuration, loads at runtime and what the admin side sees of them."""

from __future__ import annotations

import asyncio
from typing import Any

from .conftest import Running, Start

LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
SQL, LAW = {"name": "sql", "path": "/sql"}, {"name": "law"}
SLOW = {"profile": {"simple": {"timeToFirstToken": "10ms", "interTokenLatency": "20ms"}}}


async def adapters(running: Running) -> dict[str, dict[str, Any]]:
    cards = (await running.client.get("/v1/models")).json()["data"]
    return {card["id"]: card for card in cards if card["parent"] is not None}


async def complete(running: Running, model: str, tokens: int = 1) -> tuple[int, str]:
    body = {"model": model, "prompt": "word", "max_tokens": tokens, "ignore_eos": True}
    answer = await running.post("/v1/completions", body)
    return answer.status_code, answer.json().get("model", "")


def configure(running: Running, *names: dict[str, str], **more: Any) -> None:
    running.server.patch({"lora": {"adapters": list(names), **more}})


async def until_running(running: Running, number: int) -> None:
    while running.server.running < number:
        await asyncio.sleep(0.005)


async def test_adapters_come_and_go_with_the_configuration(start: Start) -> None:
    """A server that began without any serves those that it is told of, until it is told that they are gone."""
    running = await start()
    assert await complete(running, "sql") == (404, "")
    configure(running, SQL, LAW)
    assert {name: card["root"] for name, card in (await adapters(running)).items()} == {"sql": "/sql", "law": "law"}
    assert await complete(running, "sql") == (200, "sql")
    configure(running, LAW)
    assert list(await adapters(running)) == ["law"]
    assert await complete(running, "sql") == (404, "")


async def test_what_runs_goes_on_without_its_adapter(start: Start) -> None:
    """An adapter that is taken away is not taken from the requests that have it."""
    running = await start(**SLOW, lora={"adapters": [SQL]})
    answer = asyncio.create_task(complete(running, "sql", 20))
    await until_running(running, 1)
    configure(running)
    assert await adapters(running) == {}
    assert await answer == (200, "sql")


async def test_a_changed_entry_replaces_the_adapter_in_its_place(start: Start) -> None:
    """It keeps its id, as with vLLM's `load_inplace`; entries that did not change are left alone."""
    running = await start(lora={"adapters": [SQL, LAW], "maxLoras": 2})
    before = running.server.adapters.told()
    configure(running, {"name": "sql", "path": "/other"}, LAW)
    sql, law = running.server.adapters.told()
    assert (sql["id"], sql["path"]) == (before[0]["id"], "/other")
    assert law == before[1]


async def test_what_was_loaded_at_runtime_outlives_the_configuration(start: Start) -> None:
    """And what was unloaded stays away until its own entry changes."""
    running = await start(http={"allowRuntimeLoraUpdating": True}, lora={"adapters": [SQL]})
    assert (await running.post(LOAD, {"lora_name": "new", "lora_path": "/new"})).status_code == 200
    assert (await running.post(UNLOAD, {"lora_name": "sql"})).status_code == 200
    configure(running, SQL, LAW)
    assert list(await adapters(running)) == ["new", "law"]
    configure(running, {**SQL, "rank": 8}, LAW)
    assert set(await adapters(running)) == {"new", "law", "sql"}


async def test_without_lora_there_are_no_adapters_left(start: Start) -> None:
    """Where it is switched off what was loaded at runtime goes, too."""
    running = await start(http={"allowRuntimeLoraUpdating": True}, lora={"enabled": True})
    await running.post(LOAD, {"lora_name": "new", "lora_path": "/new"})
    running.server.patch({"lora": {"enabled": False}})
    assert await adapters(running) == {}


async def test_an_adapter_has_another_id_when_its_name_is_loaded_again(start: Start) -> None:
    """To the engine it is another adapter, unless it is replaced in its place."""
    running = await start(http={"allowRuntimeLoraUpdating": True}, lora={"enabled": True})
    ids = []
    for path, in_place in (("/a", False), ("/b", True)):
        await running.post(LOAD, {"lora_name": "x", "lora_path": path, "load_inplace": in_place})
        ids.append(running.server.adapters.told()[0]["id"])
    await running.post(UNLOAD, {"lora_name": "x"})
    await running.post(LOAD, {"lora_name": "x", "lora_path": "/a"})
    ids.append(running.server.adapters.told()[0]["id"])
    assert ids == [1, 1, 2]


async def test_a_load_is_answered_when_the_adapter_is_there(start: Start) -> None:
    """It takes what the profile says; of two loads of a name at the same time one comes too late."""
    profile = {"simple": {"timeToFirstToken": 0}, "lora": {"diskRead": "300ms", "slotCopy": "100ms"}}
    running = await start(http={"allowRuntimeLoraUpdating": True}, lora={"enabled": True}, profile=profile)
    began = asyncio.get_running_loop().time()
    body = {"lora_name": "x", "lora_path": "/x"}
    first, second = await asyncio.gather(running.post(LOAD, body), running.post(LOAD, body))
    assert asyncio.get_running_loop().time() - began >= 0.4
    assert sorted((first.status_code, second.status_code)) == [200, 400]


async def test_places_are_told(start: Start) -> None:
    """Adapters of the configuration are loaded from the start: the last ones into slots, those before into memory."""
    three = [{"name": name} for name in ("one-a", "b", "c")]
    running = await start(lora={"adapters": three, "maxLoras": 1, "maxCpuLoras": 2, "maxLoraRank": 64})
    told = running.server.adapters.told()
    assert [adapter["place"] for adapter in told] == ["Disk", "Host", "Slot"]
    assert {adapter["rank"] for adapter in told} == {64}


async def test_the_parent_is_a_served_name(start: Start) -> None:
    """Of the names that are none, and where none is given, the first served one stands for it."""
    entries = [{"name": "x", "baseModelName": "two"}, {"name": "y", "baseModelName": "org/base"}, {"name": "z"}]
    running = await start(lora={"adapters": entries})
    assert {name: card["parent"] for name, card in (await adapters(running)).items()} == {
        "x": "two",
        "y": "one",
        "z": "one",
    }


async def test_more_slots_let_in_who_waits_for_one(start: Start) -> None:
    """`maxLoras` is live as well, and the label of the metric follows."""
    running = await start(**SLOW, lora={"adapters": [SQL, LAW]})
    first, second = (asyncio.create_task(complete(running, name, 40)) for name in ("sql", "law"))
    while running.server.deferred < 1:
        await asyncio.sleep(0.005)
    running.server.patch({"lora": {"maxLoras": 2}})
    await until_running(running, 2)
    assert running.server.deferred == 0
    assert await first == (200, "sql")
    assert await second == (200, "law")
    assert 'vllm:lora_requests_info{max_lora="2"' in (await running.client.get("/metrics")).text


async def test_a_body_that_another_process_reads_finds_its_adapter(start: Start) -> None:
    """Also one that came after that process was started."""
    running = await start(lora={"adapters": [SQL]})
    for model in ("sql", "law"):
        if model == "law":
            configure(running, SQL, LAW)
        body = {"model": model, "prompt": "word", "max_tokens": 1, "user": "x" * 300_000}
        answer = await running.post("/v1/completions", body)
        assert (answer.status_code, answer.json()["model"]) == (200, model)


async def test_the_last_requests_tell_their_adapter(start: Start) -> None:
    """As their model, which is the base model's first name for others."""
    running = await start(lora={"adapters": [SQL]})
    await complete(running, "sql")
    await complete(running, "two")
    assert [record.model for record in running.server.metrics.requests.newest()] == ["one", "sql"]


async def test_an_abandoned_request_is_forgotten_by_the_metric(start: Start) -> None:
    """Its client goes away after the first token: the adapter is in no list any more."""
    running = await start(**SLOW, lora={"adapters": [SQL]})
    body = {"model": "sql", "prompt": "word", "max_tokens": 400, "ignore_eos": True, "stream": True}
    idle = 'vllm:lora_requests_info{max_lora="1",running_lora_adapters="",waiting_lora_adapters=""}'
    async with running.client.stream("POST", "/v1/completions", json=body) as answer:
        async for _ in answer.aiter_lines():
            break
        busy = idle.replace('adapters=""', 'adapters="sql"')
        while not await running.value(busy):
            await asyncio.sleep(0.01)
    while await running.value(idle) <= await running.value(busy):
        await asyncio.sleep(0.01)
