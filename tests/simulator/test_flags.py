"""What `ghostfleet serve` makes of its command line, its environment and its file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ghostfleet_simulator.arguments import Arity, foreign_flags, settings
from ghostfleet_simulator.config import (
    TYPED_ERRORS,
    AnswerMode,
    FailureType,
    LatencyCalculator,
    LogFormat,
    LogLevel,
    ServerConfig,
)
from ghostfleet_simulator.document import Document
from ghostfleet_simulator.flags import load
from ghostfleet_simulator.problems import InvalidInput
from ghostfleet_simulator.units import Duration


def config(*argv: str, **environ: str) -> ServerConfig:
    return load(argv, environ).config


def problems(*argv: str, **environ: str) -> list[str]:
    with pytest.raises(InvalidInput) as caught:
        load(argv, environ)
    return [str(problem) for problem in caught.value.problems]


def written(path: Path, content: Any) -> str:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


# What is accepted


def test_every_setting_of_the_issue_has_its_flag() -> None:
    """The flags that users of vLLM and llm-d-inference-sim know exist under their names."""
    expected = {
        "model",
        "served-model-name",
        "host",
        "port",
        "max-model-len",
        "max-num-seqs",
        "max-num-batched-tokens",
        "block-size",
        "num-gpu-blocks-override",
        "seed",
        "config",
        "admin-port",
        "log-level",
        "log-format",
        "time-to-first-token",
        "time-to-first-token-std-dev",
        "inter-token-latency",
        "inter-token-latency-std-dev",
        "prefill-overhead",
        "prefill-time-per-token",
        "prefill-time-std-dev",
        "time-factor-under-load",
        "latency-calculator",
        "mode",
        "failure-injection-rate",
        "failure-types",
        "admin-token-file",
        "live-file",
    }
    assert expected <= settings().keys()


def test_flags_reach_the_fields_they_name() -> None:
    """Values with units, lists, `=` and underscores end up in the tree."""
    made = config(
        *("--model", "m", "--served-model-name", "a", "b", "--max-num-seqs=7", "--max_model_len", "4096"),
        *("--time-to-first-token", "1.5s", "--inter-token-latency", "20", "--seed", "3", "--host", "127.0.0.2"),
    )
    assert made.model.name == "m"
    assert made.model.served_names == ("a", "b")
    assert made.model.max_model_len == 4096
    assert made.scheduling.max_num_seqs == 7
    assert made.profile.simple.time_to_first_token == Duration.parse("1.5s")
    assert made.profile.simple.inter_token_latency == Duration.parse("20ms")
    assert (made.seed, made.listen.host) == (3, "127.0.0.2")


def test_the_model_may_be_named_without_a_flag() -> None:
    """`ghostfleet serve MODEL` works as `vllm serve MODEL` does."""
    assert config("org/m", "--port", "1234").model.name == "org/m"


@pytest.mark.parametrize("spelling", ["per-token", "PerToken", "per_token", "PERTOKEN"])
def test_choices_are_taken_in_any_case(spelling: str) -> None:
    """An enumeration is written as kebab, snake or camel case."""
    assert (
        config("m", "--latency-calculator", spelling).profile.simple.latency_calculator is LatencyCalculator.PER_TOKEN
    )


def test_empty_elements_are_left_out() -> None:
    """Templates leave empty strings in an argument list; they mean nothing."""
    assert config("", "--model", "m", "", "--served-model-name", "a", "", "--mode", "").model.served_names == ("a",)


def test_human_readable_lengths() -> None:
    """vLLM's `k` is 1000 and `K` is 1024."""
    made = config("m", "--max-model-len", "8k", "--max-num-batched-tokens", "4K")
    assert (made.model.max_model_len, made.scheduling.max_num_batched_tokens) == (8000, 4096)


def test_a_flag_that_is_repeated_counts_last() -> None:
    """As in argparse."""
    assert config("m", "--port", "1", "--port", "2").listen.port == 2


def test_process_options() -> None:
    """What is no part of the server's configuration is told apart."""
    options = load(
        ["m", "--log-level", "DEBUG", "--log-format", "json", "--admin-token-file", "t", "--live-file", "l"], {}
    ).options
    assert (options.log_level, options.log_format) == (LogLevel.DEBUG, LogFormat.JSON)
    assert (options.admin_token_file, options.live_file) == (Path("t"), Path("l"))


@pytest.mark.parametrize(
    "argv",
    [
        ["--enforce-eager"],
        ["--no-enable-expert-parallel"],
        ["--tensor-parallel-size", "2"],
        ["-tp", "2"],
        ["-tp=2"],
        ["--lora-target-modules", "a", "b"],
        ["--hf-token"],
        ["--ec-transfer-config", '{"ec_role": "ec_both"}'],
        ["--ec-transfer-config.ec_role", "ec_both"],
        ["-O3"],
        ["--enable-kvcache", "true"],
        ["--kv-cache-size", "512"],
        ["--skip-tool-validation"],
        ["--v=4"],
    ],
)
def test_flags_of_other_programs_are_skipped_with_their_values(argv: list[str]) -> None:
    """A command line written for vLLM or llm-d-inference-sim works, and one line says what has no effect."""
    loaded = load([*argv, "--port", "1234", "--model", "m"], {})
    assert (loaded.config.model.name, loaded.config.listen.port) == ("m", 1234)
    assert len(loaded.warnings) == 1
    assert "no effect here" in loaded.warnings[0]


def test_foreign_flags_are_vllms_own() -> None:
    """The data that ships names vLLM's flags with the number of values each takes."""
    flags = foreign_flags()
    assert len(flags) > 400
    assert flags["--tensor-parallel-size"].arity is Arity.ONE
    assert flags["--enforce-eager"].arity is Arity.NONE
    assert flags["--allowed-origins"].arity is Arity.ONE
    assert flags["--lora-modules"].arity is Arity.MANY
    assert flags["--hf-token"].arity is Arity.OPTIONAL


def test_failures_by_rate_are_equal_shares_of_exactly_the_rate() -> None:
    """llm-d-inference-sim's two flags become one list, of all six types where none is named; rounding loses nothing."""
    made = config("m", "--failure-injection-rate", "100")
    assert [failure.type for failure in made.failures] == list(TYPED_ERRORS)
    assert sum(failure.probability._value for failure in made.failures) == 1
    made = config("m", "--failure-injection-rate", "30", "--failure-types", "rate_limit", "ServerError", "rate_limit")
    assert {failure.type: str(failure.probability) for failure in made.failures} == {
        FailureType.RATE_LIMIT: "0.2",
        FailureType.SERVER_ERROR: "0.1",
    }
    assert config("m", "--failure-injection-rate", "0").failures == ()


# Environment and file


def test_precedence_is_flag_environment_file_default(tmp_path: Path) -> None:
    """Each source is overridden by the one before it."""
    file = written(tmp_path / "c.yaml", "model: m\nmax-num-seqs: 1\nblock-size: 1\nport: 1\n")
    made = config(
        "--config", file, "--port", "3", GHOSTFLEET_PORT="2", GHOSTFLEET_BLOCK_SIZE="8", GHOSTFLEET_MODE="echo"
    )
    assert (made.scheduling.max_num_seqs, made.kv_cache.block_size, made.listen.port) == (1, 8, 3)
    assert made.scheduling.max_num_batched_tokens == ServerConfig(model=made.model).scheduling.max_num_batched_tokens
    assert made.answers.mode is AnswerMode.ECHO


def test_variables_that_kubernetes_sets_for_a_service_are_not_ports() -> None:
    """A Service named ghostfleet puts GHOSTFLEET_PORT=tcp://... into every pod beside it."""
    assert config("m", GHOSTFLEET_PORT="tcp://10.0.0.1:8000").listen.port == 8000


def test_a_list_in_a_variable_is_separated_by_spaces() -> None:
    """Several values fit in one variable."""
    assert config("m", GHOSTFLEET_SERVED_MODEL_NAME="a b").model.served_names == ("a", "b")


@pytest.mark.parametrize(
    ("argv", "on"),
    [
        ([], True),
        (["--enable-prefix-caching"], True),
        (["--no-enable-prefix-caching"], False),
        (["--no_enable_prefix_caching"], False),
        (["--enable-prefix-caching", "false"], False),
        (["--enable-prefix-caching=False"], False),
        (["--no-enable-prefix-caching", "--enable-prefix-caching"], True),
    ],
)
def test_a_switch_is_turned_on_and_off(argv: list[str], on: bool) -> None:
    """As vLLM's, and with a word behind it as llm-d-inference-sim's; the last one wins."""
    assert config("m", *argv).kv_cache.enable_prefix_caching is on
    assert config("m", *argv, "--seed", "5").seed == 5


def test_a_switch_is_either_on_or_off() -> None:
    """Any other word is refused."""
    (line,) = problems("m", "--enable-prefix-caching=perhaps")
    assert line == "--enable-prefix-caching: Input should be a valid boolean, not 'perhaps'"
    assert problems("m", "--no-enable-prefix-caching=true") == ["--no-enable-prefix-caching: takes no value"]


def test_pythons_hash_seed_is_the_seed_of_block_hashes() -> None:
    """As in vLLM and in llm-d-inference-sim; what is said to the server itself wins."""
    assert config("m", PYTHONHASHSEED="7").kv_cache.hash_seed == "7"
    assert config("m", PYTHONHASHSEED="7", GHOSTFLEET_HASH_SEED="8").kv_cache.hash_seed == "8"
    assert config("m", "--hash-seed", "9", PYTHONHASHSEED="7").kv_cache.hash_seed == "9"


def test_a_file_holds_blocks(tmp_path: Path) -> None:
    """Settings under the names that custom resources use."""
    file = written(
        tmp_path / "c.yaml", "model: {name: m, maxModelLen: 64}\nprofile: {simple: {interTokenLatency: 5ms}}\n"
    )
    made = config("--config", file)
    assert made.model.max_model_len == 64
    assert made.profile.simple.inter_token_latency == Duration.parse("5ms")


def test_a_file_holds_flag_names(tmp_path: Path) -> None:
    """vLLM's and llm-d-inference-sim's own files work; what means nothing is named."""
    file = written(
        tmp_path / "c.yaml",
        "model: m\nserved-model-name: [a, b]\ntime-to-first-token: 12.5\nfailure-injection-rate: 10\n"
        "failure-types: [rate_limit]\nmode: random\nenable-kvcache: true\ncompilation-config: {level: 3}\nseed:\n",
    )
    loaded = load(["--config", file], {})
    assert loaded.config.model.served_names == ("a", "b")
    assert loaded.config.profile.simple.time_to_first_token == Duration.parse("12.5ms")
    assert [str(failure.probability) for failure in loaded.config.failures] == ["0.1"]
    assert [warning.split(" is a flag")[0] for warning in loaded.warnings] == [
        f"{file}: enable-kvcache",
        f"{file}: compilation-config",
    ]


def test_a_file_holds_both_at_once(tmp_path: Path) -> None:
    """A mapping is a block and a plain value is a flag."""
    file = written(
        tmp_path / "c.yaml", "model: m\nprofile: {simple: {timeToFirstToken: 7ms}}\nmax-num-seqs: 3\nseed: 9\n"
    )
    made = config("--config", file)
    assert (made.scheduling.max_num_seqs, made.seed, str(made.profile.simple.time_to_first_token)) == (3, 9, "7ms")


def test_a_document_keeps_its_revision_and_its_live_fields(tmp_path: Path) -> None:
    """In a pod the file is the operator's document: flags change where the server listens, not what was pushed."""
    document = Document.of(
        ServerConfig.model_validate({"model": {"name": "m"}, "profile": {"simple": {"timeToFirstToken": "9ms"}}}), 7
    )
    file = written(tmp_path / "server.json", document.to_json())
    loaded = load(
        ["--config", file, "--port", "9000", "--time-to-first-token", "1ms", "--failure-injection-rate", "5"], {}
    )
    assert loaded.document is not None
    assert (loaded.document.revision, loaded.document.hash) == (7, document.hash)
    assert loaded.document.config is loaded.config
    assert (loaded.config.listen.port, str(loaded.config.profile.simple.time_to_first_token)) == (9000, "9ms")
    assert len(loaded.warnings) == 2
    assert loaded.options.config_path == Path(file)


# What is refused


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--max-num-sqes", "5"], "--max-num-sqes: unknown flag; did you mean --max-num-seqs?"),
        (["--max-num", "5"], "--max-num: unknown flag; did you mean --max-num-seqs?"),
        (["--enforce-eagre"], "--enforce-eagre: unknown flag; did you mean --enforce-eager?"),
        (["--zzzzzz"], "--zzzzzz: unknown flag; `ghostfleet serve --help` lists all"),
        (["-y"], "-y: unknown flag; `ghostfleet serve --help` lists all"),
        (["--port"], "--port: needs a value"),
        (["--port", "--seed", "1"], "--port: needs a value"),
        (["stray"], "'stray': unexpected; flags begin with --, and only one model is named"),
        (["--mode", "ecoh"], "--mode: 'ecoh' is not one of echo, random; did you mean 'echo'?"),
        (["--max-num-seqs", "0"], "--max-num-seqs: Input should be greater than or equal to 1, not '0'"),
        (["--max-num-seqs", "-3"], "--max-num-seqs: Input should be greater than or equal to 1, not '-3'"),
        (["--max-num-seqs", "many"], "--max-num-seqs: Input should be a valid integer, not 'many'"),
        (["--port", "99999"], "--port: Input should be less than or equal to 65535, not '99999'"),
        (["--time-to-first-token", "-5ms"], "--time-to-first-token: a duration cannot be negative: '-5ms'"),
        (
            ["--time-to-first-token", "20mx"],
            (
                "--time-to-first-token: '20mx' is not a duration: write a number and one of the units ns, us, ms, s, "
                "m, h (no unit means ms)"
            ),
        ),
        (
            ["--time-to-first-token", "10ms", "--time-to-first-token-std-dev", "9ms"],
            "--time-to-first-token-std-dev: 9ms is too large for a mean of 10ms: at most 30 % of the mean",
        ),
        (["--admin-port", "8000"], "--admin-port: 8000 is already the port of the API"),
        (
            ["--failure-injection-rate", "101"],
            "--failure-injection-rate: '101' is not a whole number of per cent from 0 to 100",
        ),
        (
            ["--failure-injection-rate", "1.5"],
            "--failure-injection-rate: '1.5' is not a whole number of per cent from 0 to 100",
        ),
        (
            ["--failure-injection-rate", "1", "--failure-types", "rate_limt"],
            (
                "--failure-types: 'rate_limt' is not one of rate-limit, invalid-api-key, context-length, server-error, "
                "invalid-request, model-not-found, hang, stall, reset, truncate, crash; did you mean 'rate-limit'?"
            ),
        ),
        (["--log-level", "loud"], "--log-level: 'loud' is not one of debug, info, warning, error"),
        (["--served-model-name", "a", "a"], "--served-model-name: the names must differ from each other, not 'a a'"),
        (["--config", "/does/not/exist"], "/does/not/exist: cannot be read: No such file or directory"),
    ],
)
def test_a_bad_flag_is_one_line_that_names_it(argv: list[str], line: str) -> None:
    """The line names the flag, what is wrong and what is allowed."""
    assert problems("--model", "m", *argv) == [line]


def test_no_model_is_one_line() -> None:
    """The only thing a server must be told."""
    assert problems() == ["--model: required, but not given"]
    assert problems("--port", "1") == ["--model: required, but not given"]


def test_a_cache_too_small_for_the_length_names_the_flag_that_helps() -> None:
    """A problem between two flags is told under the one that can solve it."""
    (line,) = problems("m", "--max-model-len", "1000k")
    assert line.startswith("--num-gpu-blocks-override: 16384 blocks of 16 tokens do not hold one sequence")


def test_a_bad_variable_is_named() -> None:
    """The line names the variable, not a flag that nobody wrote."""
    assert problems("m", GHOSTFLEET_MAX_NUM_SEQS="-1") == [
        "GHOSTFLEET_MAX_NUM_SEQS: Input should be greater than or equal to 1, not '-1'"
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("modle: m\n", "modle: unknown field; did you mean 'model'?"),
        ("max-num-sqs: 3\nmodel: m\n", "max-num-sqs: unknown field; did you mean 'max-num-seqs'?"),
        ("model: {name: m, maxModelLength: 3}\n", "model.maxModelLength: unknown field; did you mean 'maxModelLen'?"),
        ("model: m\nprofile: {simple: {tick: 5 apples}}\n", "profile.simple.tick: '5 apples' is not a duration"),
        ("model: m\ntime-to-first-token: soon\n", "time-to-first-token: 'soon' is not a duration"),
        ("model: m\nport: [1, 2]\n", "port: takes one value, not 2"),
        ("model: m\nport: {a: 1}\n", "port: must be a plain value or a list of plain values"),
        ("model: {name: m, maxModelLen: 64}\nmax-model-len: 64\n", "max-model-len: also given as model.maxModelLen"),
        ("model: m\nfailures: []\nfailure-injection-rate: 3\n", "failure-injection-rate: also given as failures"),
        ("model: m\nmodel: n\n", "line 2, column 1: not valid YAML: the key 'model' is there twice"),
        ("model: [\n", "line 2, column 1: not valid YAML:"),
        ("- a\n", "must hold a mapping from names to values"),
        ("{apiVersion: ghostfleet.dev/v1alpha1, kind: LatencyProfile, spec: {}}", "holds objects for a cluster; "),
        ("a: 1\n---\nb: 1\n", "holds 2 YAML documents, where one is allowed"),
        ("profile: 3\nmodel: m\n", "profile: must be an object with named fields"),
        ({"revision": -1, "config": {"model": {"name": "m"}}}, "revision: is not a whole number from 0"),
        ({"revision": 1, "hash": "x", "config": {"model": {"name": "m"}}}, "hash: is not the hash of the live part"),
        (
            {"revision": 1, "config": {"model": {"name": "m"}, "sed": 1}},
            "config.sed: unknown field; did you mean 'seed'?",
        ),
        ({"revision": 1}, "config: required, but not given"),
        ("\xff", "not UTF-8"),
    ],
)
def test_a_bad_file_is_named_with_the_path_of_the_field(tmp_path: Path, content: Any, expected: str) -> None:
    """The line names the file, the field, what is wrong and what is allowed."""
    path = tmp_path / "c.yaml"
    if content == "\xff":
        path.write_bytes(b"\xff\xfe")
    else:
        written(path, content)
    (line,) = problems("--config", str(path))
    assert line.startswith(f"{path}: {expected}")


def test_a_flag_may_be_cut_short_where_one_alone_begins_so() -> None:
    """Manifests for vLLM have `--max-num-seq 1024`; the same holds for flags that are skipped."""
    found = load(["m", "--max-num-seq", "77", "--max_model=64", "--no-enable-chunked", "--tensor-parallel", "8"], {})
    assert (found.config.scheduling.max_num_seqs, found.config.model.max_model_len) == (77, 64)
    assert not found.config.scheduling.enable_chunked_prefill
    assert [line.split()[0] for line in found.warnings] == ["--tensor-parallel-size"]


def test_every_problem_of_a_file_is_told(tmp_path: Path) -> None:
    """One start shows all that is wrong with a file."""
    file = written(tmp_path / "c.yaml", "model: {name: ''}\nscheduling: {maxNumSeqs: 0}\n")
    assert [line.split(": ")[1] for line in problems("--config", file)] == ["model.name", "scheduling.maxNumSeqs"]


def test_the_fake_metrics_of_llmd_are_ours() -> None:
    """Every key of its JSON object, from the command line or as a block of its configuration file."""
    told = {
        "running-requests": 3,
        "kv-cache-usage": "oscillate:0.1:0.9:30s",
        "ttft-buckets-values": [1, 2],
        "tpot-buckets-values": [4],
        "request-success-total": {"stop": 5, "tool_calls": 1},
        "total-prompt-tokens": 100,
        "waiting-requests": None,
        "loras": [{"running": "a,b", "waiting": "", "timestamp": 12}],
    }
    config = load(["m", "--fake-metrics", json.dumps(told)], {}).config
    assert config.fake_metrics == {
        "vllm:num_requests_running": "3",
        "vllm:kv_cache_usage_perc": "oscillate:0.1:0.9:30s",
        "vllm:time_to_first_token_seconds": "[1, 2]",
        "vllm:inter_token_latency_seconds": "[4]",
        'vllm:request_success_total{finished_reason="stop"}': "5",
        "vllm:prompt_tokens_total": "100",
        'vllm:lora_requests_info{max_lora="1",running_lora_adapters="a,b",waiting_lora_adapters=""}': "12",
    }


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ("{", "--fake-metrics: not JSON"),
        ('{"runing-requests": 1}', "did you mean 'running-requests'?"),
        ('{"ttft-buckets-values": 1}', "--fake-metrics: ttft-buckets-values: 1 is not of the form"),
    ],
)
def test_fake_metrics_that_cannot_be_read_are_told(told: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        load(["m", "--fake-metrics", told], {})
    assert message in str(caught.value)


def test_fake_metrics_of_a_file_of_flags(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("model: m\nfake-metrics:\n  running-requests: 3\n  ttft-buckets-values: [1, 2]\n")
    config = load(["--config", str(file)], {}).config
    assert config.fake_metrics == {
        "vllm:num_requests_running": "3",
        "vllm:time_to_first_token_seconds": "[1, 2]",
    }
