"""The command line of llm-d-inference-sim is cut into settings as it is there, or better where that loses a meaning."""

from __future__ import annotations

import pytest

from ghostfleet_simulator.llmd.arguments import parse
from ghostfleet_simulator.problems import InvalidInput


@pytest.mark.parametrize(
    ("argv", "values"),
    [
        (["--port", "8001"], {"port": 8001}),
        (["--port=0x10"], {"port": 16}),
        (["--seed=-5"], {"seed": -5}),
        (["--seed", "-5"], {"seed": -5}),
        (["--enable-kvcache"], {"enable-kvcache": True}),
        (["--enable-kvcache=false"], {"enable-kvcache": False}),
        (["--enable-kvcache=T"], {"enable-kvcache": True}),
        (["--no-enable-sleep-mode"], {"enable-sleep-mode": False}),
        (["--no-mm-encoder-only"], {"mm-encoder-only": False}),
        (["--time-factor-under-load", "2.5"], {"time-factor-under-load": 2.5}),
        (["--inter-token-latency", "0.1ms"], {"inter-token-latency": "0.1ms"}),
        (["--served-model-name", "a", "b", "--port", "1"], {"served-model-name": ["a", "b"], "port": 1}),
        (["--served-model-name=a"], {"served-model-name": ["a"]}),
        (["--failure-types", "rate_limit", "", "server_error"], {"failure-types": ["rate_limit", "server_error"]}),
        (["--lora-modules", '{"name": "a"}', '{"name": "b"}'], {"lora-modules": [{"name": "a"}, {"name": "b"}]}),
        (["--fake-metrics", '{"running-requests": 3}'], {"fake-metrics": {"running-requests": 3}}),
        (["--max_model_len", "5"], {"max-model-len": 5}),
        (["--hash-seed", ""], {"hash-seed": ""}),
        (["", "--port", "7", ""], {"port": 7}),
    ],
)
def test_words_become_settings(argv: list[str], values: object) -> None:
    parsed = parse(argv)
    assert (parsed.values, parsed.notes, parsed.rest) == (values, [], [])


@pytest.mark.parametrize("argv", [["-v", "4"], ["-v=4"], ["-v4"], ["--v=4"], ["--v", "4"]])
def test_the_verbosity_of_klog(argv: list[str]) -> None:
    assert parse([*argv, "--port", "1"]).verbosity == 4


@pytest.mark.parametrize(
    "argv",
    [["--logtostderr"], ["--alsologtostderr=true"], ["--log_dir", "/tmp/x"], ["--vmodule=a=3"], ["--log-file", "f"]],
)
def test_other_flags_of_klog_are_told_to_be_needless(argv: list[str]) -> None:
    parsed = parse([*argv, "--port", "1"])
    assert parsed.values == {"port": 1}
    assert [note.path for note in parsed.notes] == [argv[0].partition("=")[0]]


def test_what_was_meant_by_false_counts_and_is_told() -> None:
    """pflag takes the word for one that belongs to no flag, and so a cache that was switched off is on."""
    parsed = parse(["--enable-kvcache", "false"])
    assert parsed.values == {"enable-kvcache": False}
    assert "overlooks" in parsed.notes[0].message


def test_true_behind_a_switch_is_its_value() -> None:
    """So do its own manifests write it."""
    assert parse(["--enable-kvcache", "true", "--port", "1"]).values == {"enable-kvcache": True, "port": 1}


def test_a_negated_toggle_heeds_its_value() -> None:
    assert parse(["--enable-sleep-mode=false"]).values == {"enable-sleep-mode": False}


def test_a_bare_number_is_milliseconds_and_told() -> None:
    parsed = parse(["--time-to-first-token", "500"])
    assert parsed.values == {"time-to-first-token": "500ms"}
    assert str(parsed.notes[0]) == "--time-to-first-token: 500 has no unit and is taken for milliseconds; write 500ms"


def test_words_of_no_flag_are_told() -> None:
    assert [note.path for note in parse(["serve", "--port", "1", "--", "x"]).notes] == ["'serve'", "'x'"]


def test_flags_that_it_does_not_have_are_left_with_their_words() -> None:
    parsed = parse(["--admin-port", "9101", "--port", "1", "--log-format=json", "-tp", "2"])
    assert (parsed.values, parsed.rest) == ({"port": 1}, ["--admin-port", "9101", "--log-format=json", "-tp", "2"])


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["--port"], "--port: needs a value"),
        (["--port", "x"], "--port: 'x' is not a whole number"),
        (["--time-factor-under-load", "x"], "--time-factor-under-load: 'x' is not a number"),
        (["--enable-kvcache=maybe"], "--enable-kvcache: 'maybe' is neither true nor false"),
        (["--lora-modules", "x"], "--lora-modules: not JSON: Expecting value: line 1 column 1 (char 0)"),
        (["--fake-metrics", "[1]"], "--fake-metrics: must be a JSON object, not '[1]'"),
        (["--config", "a", "b"], "--config: needs one file"),
        (["--v=x"], "--v: 'x' is not a whole number"),
    ],
)
def test_what_cannot_be_read(argv: list[str], problem: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse(argv)
    assert [str(one) for one in refused.value.problems] == [problem]
