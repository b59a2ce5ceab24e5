"""LoRA adapters as vLLM's contract has them: routes, model list, answers, metrics, and who runs beside whom."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from tests.served import Serve

from .conftest import INSTANT, Vllm, refused

LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
INFO = "vllm:lora_requests_info"
RUNTIME = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
PACED = ("--time-to-first-token", "0", "--inter-token-latency", "10ms", "--max-model-len", "512", "--mode", "echo")


def client_of(serve: Serve, *flags: str, **variables: str) -> Iterator[Vllm]:
    served = serve(*flags, environment=variables)
    with httpx.Client(base_url=served.url, timeout=30) as client:
        yield Vllm(served, client)


@pytest.fixture(scope="module")
def adapted(serve: Serve) -> Iterator[Vllm]:
    """A server with two adapters from its command line, of which one runs at a time, that can load others."""
    modules = ("--lora-modules", "sql=/adapters/sql", '{"name": "law", "path": "law-v1", "base_model_name": "m"}')
    yield from client_of(serve, *INSTANT, "--enable-lora", *modules, **RUNTIME)


@pytest.fixture
def paced(serve: Serve) -> Iterator[Vllm]:
    """A server whose tokens take 10 ms each, with adapters a, b and c of which one runs at a time."""
    modules = ("--lora-modules", "a=a", "b=b", "c=c")
    yield from client_of(serve, *PACED, "--enable-lora", *modules, "--max-loras", "1")


def cards(vllm: Vllm) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = vllm.get("/v1/models").json()["data"]
    return found


def names(vllm: Vllm) -> list[str]:
    return [card["id"] for card in cards(vllm)]


def newest_info(vllm: Vllm) -> str:
    """The labels of the series that was written last, as schedulers read it."""
    info = {sample: value for sample, value in vllm.metrics().items() if sample.startswith(INFO)}
    return max(info, key=lambda sample: info[sample]).removeprefix(INFO)


def until(told: Callable[[], Any], expected: Any) -> None:
    end = time.monotonic() + 10
    while told() != expected:
        assert time.monotonic() < end, f"{told()} is not {expected}"
        time.sleep(0.01)


class Background:
    """Completions under way, and the order in which they end."""

    def __init__(self, vllm: Vllm) -> None:
        self._vllm = vllm
        self._threads: list[threading.Thread] = []
        self.ended: list[str] = []

    def start(self, name: str, tokens: int, model: str, prompt: str = "word") -> None:
        def ask() -> None:
            body = {"model": model, "prompt": prompt, "max_tokens": tokens, "ignore_eos": True}
            answer = httpx.post(f"{self._vllm.served.url}/v1/completions", json=body, timeout=30)
            assert answer.json()["model"] == model
            self.ended.append(name)

        self._threads.append(threading.Thread(target=ask))
        self._threads[-1].start()

    def wait(self) -> list[str]:
        for thread in self._threads:
            thread.join(20)
        return self.ended


# --- routes ------------------------------------------------------------------------------------------


def test_adapter_routes_are_off(plain: Vllm) -> None:
    """1a: /v1/load_lora_adapter and /v1/unload_lora_adapter are 404 without VLLM_ALLOW_RUNTIME_LORA_UPDATING=1."""
    for path in (LOAD, UNLOAD):
        answer = plain.post(path, {"lora_name": "x", "lora_path": "/x"})
        assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"})


def test_adapter_cards(adapted: Vllm) -> None:
    """1a: adapters stand behind the base model in /v1/models: root is the path, parent the base, no max_model_len."""
    base, sql, law = cards(adapted)[:3]
    assert (base["id"], base["parent"], base["max_model_len"]) == ("m", None, 512)
    assert [(card["id"], card["root"], card["parent"]) for card in (sql, law)] == [
        ("sql", "/adapters/sql", "m"),
        ("law", "law-v1", "m"),
    ]
    assert list(sql) == list(base)
    assert (sql["max_model_len"], sql["owned_by"], sql["object"]) == (None, "vllm", "model")
    assert sql["permission"][0]["id"].startswith("modelperm-")


def test_adapter_load_and_unload(adapted: Vllm) -> None:
    """1a: a loaded adapter can be asked for at once, an unloaded one no more; both answers are texts without a type."""
    answer = adapted.post(LOAD, {"lora_name": "new", "lora_path": "/adapters/new"})
    assert (answer.status_code, answer.text) == (200, "Success: LoRA adapter 'new' added successfully.")
    assert "content-type" not in answer.headers
    assert names(adapted)[-1] == "new"
    assert cards(adapted)[-1]["root"] == "/adapters/new"
    assert adapted.completion(model="new").json()["model"] == "new"
    answer = adapted.post(UNLOAD, {"lora_name": "new", "lora_int_id": 7})
    assert (answer.status_code, answer.text) == (200, "Success: LoRA adapter 'new' removed successfully.")
    assert "new" not in names(adapted)
    assert refused(adapted.completion(model="new"))[0] == 404


def test_adapter_load_in_place(adapted: Vllm) -> None:
    """1a: load_inplace replaces an adapter that is there, and is no error where there is none."""
    for path in ("/one", "/two"):
        assert adapted.post(LOAD, {"lora_name": "moved", "lora_path": path, "load_inplace": True}).status_code == 200
        assert cards(adapted)[-1]["root"] == path
    assert adapted.post(UNLOAD, {"lora_name": "moved"}).status_code == 200


def test_adapter_load_is_not_counted(adapted: Vllm) -> None:
    """2: the http metrics leave out /v1/load_lora_adapter, whose path holds /load, but not the route that unloads."""
    adapted.post(LOAD, {"lora_name": "counted", "lora_path": "/x"})
    adapted.post(UNLOAD, {"lora_name": "counted"})
    handlers = [sample for sample in adapted.metrics() if sample.startswith("http_requests_total")]
    assert not any(f'"{LOAD}"' in sample for sample in handlers)
    assert any(f'"{UNLOAD}"' in sample for sample in handlers)


# --- refusals ----------------------------------------------------------------------------------------

USER = (400, "InvalidUserInput")


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        (LOAD, {"lora_name": "", "lora_path": "/x"}, (*USER, "Both 'lora_name' and 'lora_path' must be provided.")),
        (LOAD, {"lora_name": "x", "lora_path": ""}, (*USER, "Both 'lora_name' and 'lora_path' must be provided.")),
        (
            LOAD,
            {"lora_name": "m", "lora_path": "/x"},
            (*USER, "The lora adapter 'm' conflicts with a served base model."),
        ),
        (
            LOAD,
            {"lora_name": "sql", "lora_path": "/x"},
            (
                *USER,
                (
                    "The lora adapter 'sql' has already been loaded. If you want to load the adapter in place, set "
                    "'load_inplace' to True."
                ),
            ),
        ),
        (UNLOAD, {"lora_name": ""}, (*USER, "'lora_name' needs to be provided to unload a LoRA adapter.")),
        (UNLOAD, {"lora_name": "gone"}, (404, "NotFoundError", "The lora adapter 'gone' cannot be found.")),
        (UNLOAD, {"lora_name": "m"}, (404, "NotFoundError", "The lora adapter 'm' cannot be found.")),
    ],
)
def test_adapter_refusals(adapted: Vllm, path: str, body: dict[str, str], expected: tuple[int, str, str]) -> None:
    """1c: what cannot be loaded or unloaded is refused in vLLM's words, param null."""
    assert refused(adapted.post(path, body)) == (*expected, None)


def test_adapter_bodies(adapted: Vllm) -> None:
    """1c: a body that lacks a field is a validation error, one that is no JSON by its type is named so."""
    status, type_, message, param = refused(adapted.post(LOAD, {"lora_name": "x"}))
    assert (status, type_, param) == (400, "Bad Request", "body.lora_path")
    assert "'type': 'missing', 'loc': 'body.lora_path', 'msg': 'Field required'" in message
    answer = adapted.client.post(UNLOAD, content=b"lora_name=x", headers={"content-type": "text/plain"})
    assert "Unsupported Media Type: Only 'application/json' is allowed" in refused(answer)[2]


def test_adapter_load_without_lora(serve: Serve) -> None:
    """1c: without --enable-lora a load fails in the engine: 500 with the engine's words."""
    for vllm in client_of(serve, *INSTANT, **RUNTIME):
        assert refused(vllm.post(LOAD, {"lora_name": "x", "lora_path": "/x"})) == (
            500,
            "InternalServerError",
            "Call to add_lora method failed: LoRA is not enabled. Use --enable-lora to enable LoRA.",
            None,
        )


def test_adapter_unknown(adapted: Vllm) -> None:
    """1c: the 404 of an unknown model names the base model's aliases only, not the adapters."""
    expected = (404, "NotFoundError", "The model `nobody` does not exist. Valid aliases: m.", "model")
    assert refused(adapted.completion(model="nobody")) == expected


# --- answers -----------------------------------------------------------------------------------------


def test_adapter_answers(adapted: Vllm) -> None:
    """1b: an answer names the adapter as its model, whole and streamed; without a model it is the base that answers."""
    assert adapted.chat(model="sql", max_tokens=3).json()["model"] == "sql"
    assert adapted.completion(model="law", max_tokens=3).json()["model"] == "law"
    assert {chunk["model"] for chunk in adapted.chat_chunks(model="sql", max_tokens=3)} == {"sql"}
    assert {chunk["model"] for chunk in adapted.completion_chunks(model="law", max_tokens=3)} == {"law"}
    generated = {"model": "sql", "token_ids": [5, 6], "sampling_params": {"max_tokens": 2}}
    assert adapted.post("/inference/v1/generate", generated).json()["model"] == "sql"
    assert adapted.chat(model="", max_tokens=3).json()["model"] == "m"


def test_adapter_tokenizes(adapted: Vllm) -> None:
    """1b: the tokenizer's routes and the render routes take an adapter for a model; rendered, its name is kept."""
    assert adapted.post("/tokenize", {"model": "sql", "prompt": "a"}).status_code == 200
    assert adapted.post("/detokenize", {"model": "sql", "tokens": [5]}).status_code == 200
    rendered = adapted.post("/v1/completions/render", {"model": "sql", "prompt": "a"}).json()
    assert rendered[0]["model"] == "sql"


def test_adapter_metrics_are_the_models(adapted: Vllm) -> None:
    """2: what is counted of a request for an adapter has the base model's name as model_name."""
    before = adapted.value("vllm:generation_tokens_total", model_name="m")
    adapted.completion(model="sql", max_tokens=4, ignore_eos=True)
    assert adapted.value("vllm:generation_tokens_total", model_name="m") == before + 4


def test_adapter_prefixes(adapted: Vllm) -> None:
    """4: blocks are found again for the adapter that computed them only."""
    prompt = [77] * 64
    hits = []
    for model in ("m", "sql", "law", "sql", "m"):
        before = adapted.value("vllm:prefix_cache_hits_total")
        adapted.completion(prompt, model=model, max_tokens=1)
        hits.append(adapted.value("vllm:prefix_cache_hits_total") - before)
    assert hits == [0, 0, 0, 48, 48]


# --- metrics -----------------------------------------------------------------------------------------


def test_adapter_info_is_off(plain: Vllm) -> None:
    """2: vllm:lora_requests_info is not there without --enable-lora."""
    assert INFO not in plain.get("/metrics").text


def test_adapter_info_begins(paced: Vllm) -> None:
    """2: with --enable-lora the family is there from the start, its first series with the first request."""
    text = paced.get("/metrics").text
    assert f"# TYPE {INFO} gauge" in text
    assert f"{INFO}{{" not in text
    paced.completion(max_tokens=1)
    assert newest_info(paced) == '{max_lora="1",running_lora_adapters="",waiting_lora_adapters=""}'


def test_adapter_info(paced: Vllm) -> None:
    """2: an adapter is in both lists of the series written last, from its first token to its end; the value is time."""
    background, listed = Background(paced), '{max_lora="1",running_lora_adapters="a",waiting_lora_adapters="a"}'
    began = time.time()
    background.start("first", 200, "a")
    until(lambda: INFO in "".join(paced.metrics()) and newest_info(paced), listed)
    value = paced.metrics()[INFO + listed]
    assert began - 1 < value < time.time() + 1
    background.wait()
    until(lambda: newest_info(paced), '{max_lora="1",running_lora_adapters="",waiting_lora_adapters=""}')
    assert INFO + listed in paced.metrics(), "older series stay"


def test_adapter_info_of_several(serve: Serve) -> None:
    """2: the names are joined by commas, in the order in which the adapters came."""
    flags = ("--enable-lora", "--max-loras", "2", "--lora-modules", "b=b", "a=a")
    served = serve(*PACED, *flags)
    with httpx.Client(base_url=served.url, timeout=30) as client:
        vllm = Vllm(served, client)
        background = Background(vllm)
        background.start("b", 300, "b")
        until(lambda: vllm.value("vllm:num_requests_running"), 1)
        background.start("a", 60, "a")
        expected = '{max_lora="2",running_lora_adapters="b,a",waiting_lora_adapters="b,a"}'
        until(lambda: newest_info(vllm), expected)
        assert background.wait() == ["a", "b"]


# --- the scheduler -----------------------------------------------------------------------------------


def test_adapter_waits_and_is_overtaken(paced: Vllm) -> None:
    """5: beyond max_loras a request waits, `deferred`; those of the base and of a running adapter overtake it."""
    background = Background(paced)
    background.start("a", 250, "a")
    until(lambda: paced.value("vllm:num_requests_running"), 1)
    background.start("b", 30, "b")
    until(lambda: paced.value("vllm:num_requests_waiting_by_reason", reason="deferred"), 1)
    assert paced.value("vllm:num_requests_waiting_by_reason", reason="capacity") == 0
    assert paced.value("vllm:num_requests_waiting") == 1
    background.start("base", 5, "m")
    background.start("a too", 5, "a")
    ended = background.wait()
    assert (set(ended[:2]), ended[2:]) == ({"base", "a too"}, ["a", "b"])
    assert paced.value("vllm:num_requests_waiting_by_reason", reason="deferred") == 0


def test_adapter_keeps_its_place(paced: Vllm) -> None:
    """5: requests that were passed over are admitted in the order in which they came."""
    background = Background(paced)
    background.start("a", 300, "a")
    until(lambda: paced.value("vllm:num_requests_running"), 1)
    for number, model in enumerate(("b", "c", "b"), 1):
        background.start(f"{model}{number}", 20, model)
        until(lambda: paced.value("vllm:num_requests_waiting"), number)
    # The second for b runs with the first: it overtakes c, whose adapter finds no room beside b.
    assert background.wait() in (["a", "b1", "b3", "c2"], ["a", "b3", "b1", "c2"])
