"""`python -m tests.conformance.table` writes docs/conformance.md: statements of vLLM's contract and their tests."""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "conformance.md"
TESTS: Final = "tests/conformance"

SECTIONS: Final = {
    "1": "Across routes: keys, CORS, ids",
    "1a": "Routes",
    "1b": "Requests",
    "1c": "Refusals",
    "1d": "Answers and streams",
    "1e": "Limits and ends",
    "2": "Metrics",
    "3": "KV events",
    "4": "Prefix cache",
    "5": "Scheduler",
    "6": "Start and end",
    "6, P/D": "Prefill and decode by different servers",
    "8": "What benchmarks and routers rely on",
    "Versions": "Version boundaries",
    "Pickers": "What endpoint pickers rely on",
}

_API, _PROTOCOL, _ENGINE = "tests/simulator/api/", "tests/simulator/protocol/", "tests/simulator/engine/"
_EVENTS, _SCHEDULERS = "tests/simulator/kv_events/", "e2e/schedulers/"
ELSEWHERE: Final[tuple[tuple[str, str, str], ...]] = (
    (
        "1a",
        "the routes of development mode, each mode of a pause and each level of sleep",
        _API + "test_development.py",
    ),
    ("1b", "the forms and values of logprobs, with echo and of prompts", _API + "test_logprobs.py"),
    ("1b", "defaults and every field's own error, the first thing wrong being told", _API + "test_preflight.py"),
    ("1c", "at most ten validation errors are told", _API + "test_errors.py::test_at_most_ten_errors_are_told"),
    ("1c", "messages leak no paths", _API + "test_errors.py::test_messages_leak_no_addresses_and_no_paths"),
    ("1c", "rules that span fields", _API + "test_errors.py::test_rules_that_span_fields"),
    (
        "1d",
        "order of a stream's frames, and their times",
        _PROTOCOL + "test_streams.py::test_tokens_come_at_their_times_and_in_vllms_frames",
    ),
    (
        "1d",
        "deltas of a slow reader are merged",
        _PROTOCOL + "test_streams.py::test_a_slow_reader_gets_merged_deltas_and_holds_up_nobody",
    ),
    (
        "1d",
        "a stop string in a stream never leaks a part",
        _PROTOCOL + "test_streams.py::test_a_stop_string_ends_the_answer",
    ),
    (
        "1e",
        "a client that leaves, streaming or not",
        _PROTOCOL + "test_streams.py::test_a_client_that_goes_away_is_aborted",
    ),
    (
        "2",
        "every family with its labels, buckets and initial zeros, and no other",
        "tests/simulator/metrics/test_vllm_names.py",
    ),
    ("2", "the moment at which each metric moves", "tests/simulator/metrics/test_recorder.py"),
    (
        "4",
        "hash vectors of sha256 and sha256_cbor",
        _ENGINE + "test_hashing.py::test_the_hashes_of_counting_tokens_are_those_of_vllm",
    ),
    ("2", "what schedulers read of each dialect, by their rules", "tests/simulator/metrics/test_dialects.py"),
    ("3", "bytes of every release", _EVENTS + "test_encoding.py"),
    ("3", "bytes and hashes of SGLang", _EVENTS + "test_sglang_encoding.py"),
    ("3", "replay from batch 0 rebuilds what each tier holds, in every encoding", _EVENTS + "test_replay_property.py"),
    ("3", "llm-d's index believes what the engine finds", "tests/schedulers/test_kv_index.py"),
    (
        "4",
        "hash vectors of all four algorithms with a seed and a salt",
        _ENGINE + "test_hash_vectors.py::test_the_hashes_are_those_of_vllm",
    ),
    ("4", "seeds, versions and extra keys of hashes", _ENGINE + "test_hashing.py"),
    ("4", "order of the free queue, eviction", _ENGINE + "test_blocks.py"),
    ("5", "budget, order, admission, preemption, priority, thresholds", _ENGINE + "test_scheduler.py"),
    ("5", "the whole against a naive model of it", _ENGINE + "test_scheduler_machine.py"),
    ("5", "a prompt that was there costs less; the urgent overtake", _PROTOCOL + "test_scheduling.py"),
    ("5", "where LoRA adapters lie, and who waits while one is loaded", _ENGINE + "test_adapters.py"),
    ("5", "nobody starves, whatever the policy", _ENGINE + "test_starvation.py::test_no_sequence_starves"),
    ("Versions", "every other boundary, metrics included", "tests/simulator/test_versions.py"),
    ("Pickers", "a pod that is not Ready, killed or scaled away is no endpoint", _SCHEDULERS + "test_membership.py"),
    ("Pickers", "decisions by `vllm:num_requests_waiting`", _SCHEDULERS + "test_queue.py"),
    ("Pickers", "decisions by `vllm:num_requests_running`", _SCHEDULERS + "test_running.py"),
    ("Pickers", "decisions by `vllm:kv_cache_usage_perc`", _SCHEDULERS + "test_kv_usage.py"),
    ("Pickers", "block size and number of blocks from `vllm:cache_config_info`", _SCHEDULERS + "test_prefix.py"),
    ("Pickers", "decisions by `vllm:lora_requests_info`, and without it", _SCHEDULERS + "test_lora.py"),
    ("Pickers", "a full pool sheds requests of negative priority", _SCHEDULERS + "test_shedding.py"),
    ("Pickers", "usage of answers, streamed and whole, and streams that break off", _SCHEDULERS + "test_usage.py"),
    ("Pickers", "a server that turns slow loses its share and gets it back", _SCHEDULERS + "test_hot_reload.py"),
    *(
        ("Pickers", f"by llm-d-router's picker: {statement}", f"{_SCHEDULERS}llm_d/test_{name}.py")
        for statement, name in (
            ("file discovery, with ports as strings, replaced by rename, by readiness", "discovery"),
            ("scores by queue, KV cache and running requests, of every dialect", "load"),
            ("scores by adapters", "adapters"),
            ("prefixes without events", "prefix"),
            ("KV events of every encoding, dialled and connecting", "kv_events"),
            ("roles, and headers of divided requests", "roles"),
            ("its sidecar with NIXL, Mooncake, SGLang, offloading, shared storage, encoders", "sidecar"),
            ("sessions", "sessions"),
            ("two hundred endpoints", "burst"),
            ("usage", "usage"),
        )
    ),
    (
        "Pickers",
        "no label `llm-d.ai/role` is ever empty",
        "tests/operator/plan/test_kubernetes.py::test_a_role_is_a_label_of_the_pods_and_never_an_empty_one",
    ),
    ("Pickers", "an `InferencePool` is as its definition has it", "tests/operator/plan/test_inference_pool.py"),
    *(
        ("6, P/D", statement, _PROTOCOL + "test_disaggregation.py::test_" + name)
        for statement, name in (
            ("NIXL's `kv_transfer_params` of an answer", "the_parameters_that_the_prefilling_side_gives"),
            ("their fields by version", "they_follow_the_version"),
            ("blocks are fetched, let go and counted on both sides", "the_other_side_fetches_and_lets_go"),
            ("a request waits with its blocks, and shows it", "a_transfer_takes_its_time_and_shows_meanwhile"),
            ("what nobody fetches is held for the lease", "a_lease_ends_without_heartbeats"),
            ("heartbeats prolong the lease", "heartbeats_keep_it_while_the_other_side_has_no_slot"),
            ("a transfer that fails fails the request", "a_transfer_that_fails_fails_the_request"),
            ("or has its prompt computed, by policy", "or_has_its_prompt_computed"),
            ("parameters that are not whole: local prefill", "parameters_that_are_not_whole_are_not_used"),
            ("Mooncake: `/query`, `transfer_id`, both at once", "mooncake"),
            ("SGLang: `bootstrap_room` on both legs", "sglang"),
            ("offloading: `remote_decoder`, `remote_prefiller`", "offloading"),
            ("`cache_threshold` by request and header", "cache_threshold"),
        )
    ),
    ("6, P/D", "by way of vllm-router, with NIXL and Mooncake", "tests/schedulers/test_vllm_router_disaggregated.py"),
    ("6, P/D", "`ec_transfer_params` of an encoder", _API + "test_media.py"),
    ("6", "log of a start, sockets, signals, drain and abort", _PROTOCOL + "test_lifecycle.py"),
)
"""Section, statement, and the test or file of tests that shows it."""

DIFFERENT: Final[tuple[tuple[str, str, str], ...]] = (
    (
        "1",
        "An engine that died: `/health` 503, watchdog",
        "No engine process apart could die; the failure `Crash` ends the whole server.",
    ),
    (
        "1c",
        "Of a body with many wrong items every error is counted",
        (
            "In a body of more than 512 keys and items only the first wrong item of each list is told: a megabyte of "
            "wrong messages is millions of errors, over which vLLM is silent for minutes."
        ),
    ),
    (
        "1c",
        "An error that quotes half a surrogate pair",
        (
            "400 with Python's encoding error as in vLLM's own handler; where vLLM's handler itself breaks over it and "
            "answers a bare 500, this server answers the 400 too."
        ),
    ),
    (
        "1d",
        "Text, logprobs and `routed_experts` come from a model",
        "There is none: texts are echoed or drawn, logprobs are made up.",
    ),
    (
        "2",
        "`python_info`, `process_*`",
        "They are those of this process, not of a vLLM with its CUDA libraries.",
    ),
    (
        "2",
        "Order of labels and families as text",
        "The contract calls it unverified; parsers see no difference, and only they are tested.",
    ),
    (
        "8",
        "A body of 10 MB that is served holds up nobody",
        (
            "vLLM makes no such promise. Reading it does not; but a thousand prompts of thousands of tokens that are "
            "admitted at once take the engine 0.1 to 0.2 s, mostly to hash their blocks, and others' tokens wait."
        ),
    ),
)
"""Section, statement, and in what way it cannot hold here."""

_HEAD: Final = """# Conformance

What vLLM 0.33 does on the wire, statement by statement, and the test that shows it here. Written by
`python -m tests.conformance.table` from the tests themselves; a test checks that it is up to date.

Tests in `{tests}` talk HTTP to a `ghostfleet serve` process that knows nothing of them. Sections are those of the
contract the tests are written from: 1 the API, 2 metrics, 3 KV events, 4 block hashing, 5 the scheduler, 6 operation,
8 clients.
Routes that do not exist here are listed in [api.md](api.md).
"""

_FUZZED: Final = """## Against hostile clients

`make soak` runs the tests of `tests/adverse` whole, `make test` a sample of them; both print how many cases there were.
Run on 2026-11-21, on two cores that had other work as well:

| what | cases | what was found |
| --- | --- | --- |
| mutated bodies, all POST routes | 100,000 in 6 minutes | 21,392 x 200, 78,517 x 400, 91 x 404; memory grew by 11 MiB |
| schemathesis over `/openapi.json` | 10,790 in 15 minutes | no server error |

There was no 500, no hang and no broken stream. An earlier run of schemathesis had found that `min_tokens` beyond the
context broke `/inference/v1/generate`.

What other clients see while slow readers, 2,000 idle connections, bodies of 10 MB (texts, millions of values, texts to
tokenize) and 300 disconnects a second come: the latest of their tokens, paced at 20 ms, was 8 to 26 ms late, and 41 ms
with all of them at once (8 ms without any, 6 of which the machine itself was late); the server had at most 12 MiB more
afterwards. These are the figures of the sample, two seconds of each.
"""


def statements() -> Iterator[tuple[str, str, str]]:
    """Section, statement and test of everything that tests/conformance shows."""
    for file in sorted((ROOT / TESTS).glob("test_*.py")):
        if file.name == "test_table.py":
            continue
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                sections, _, statement = (ast.get_docstring(node) or "").partition(": ")
                section = sections.split(", ")[0]
                if section not in SECTIONS or not statement:
                    raise ValueError(
                        f"{file.name}::{node.name}: the docstring must begin with a section of the contract"
                    )
                yield section, " ".join(statement.split()), f"{TESTS}/{file.name}::{node.name}"


def page() -> str:
    """The text of docs/conformance.md."""
    rows: dict[str, list[str]] = defaultdict(list)
    for section, statement, test in (*statements(), *ELSEWHERE):
        rows[section].append(f"| {_capital(statement)} | `{test.removeprefix('tests/')}` |")
    parts = [_HEAD.format(tests=TESTS)]
    for section, title in SECTIONS.items():
        if rows[section]:
            number = f"{section} " if section[0].isdigit() else ""
            parts.append(
                f"## {number}{title}\n\n| statement | shown by |\n| --- | --- |\n" + "\n".join(rows[section]) + "\n"
            )
    parts.append(_FUZZED)
    parts.append(
        "## Where a statement does not hold\n\n| section | statement | here |\n| --- | --- | --- |\n"
        + "\n".join(f"| {section} | {statement} | {here} |" for section, statement, here in DIFFERENT)
        + "\n"
    )
    return "\n".join(parts)


def _capital(text: str) -> str:
    text = text.rstrip(".").replace("|", "\\|")
    return text[0].upper() + text[1:]


if __name__ == "__main__":
    PAGE.write_text(page())
    sys.stdout.write(f"wrote {PAGE.relative_to(ROOT)}\n")
