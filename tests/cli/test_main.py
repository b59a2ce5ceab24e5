"""The `ghostfleet` command as a person meets it: help, mistakes, exit codes."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.served import free_port

from ghostfleet_simulator import __version__

GHOSTFLEET = Path(sys.executable).with_name("ghostfleet")
COMMANDS = ("serve", "up", "status", "apply", "down", "import", "operator")


def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [GHOSTFLEET, *words], capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **variables}
    )


def test_help_is_instant_and_names_every_command() -> None:
    """Nothing is imported before a command is known: help takes less than 150 ms of CPU."""
    times = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        result = run("--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert result.returncode == 0
    assert all(f"\n  {name} " in result.stdout for name in COMMANDS)
    assert min(times) < 0.15


def test_no_command_shows_help_and_fails() -> None:
    """A script that forgot its command notices."""
    assert run().returncode == 2
    assert "usage: ghostfleet COMMAND" in run().stdout


@pytest.mark.parametrize("words", [["--version"], ["serve", "--version"]])
def test_version(words: list[str]) -> None:
    """The version of the installed distribution."""
    assert run(*words).stdout == f"ghostfleet {__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    """And it goes to standard output."""
    result = run(command, "--help")
    assert result.returncode == 0
    assert result.stdout.startswith(f"usage: ghostfleet {command}")


def test_help_of_serve_explains_every_flag() -> None:
    """Flags, their meaning and defaults come from the models."""
    text = run("serve", "--help").stdout
    for line in ("  --max-num-seqs VALUE", "  --served-model-name VALUE [VALUE ...]", "  --mode echo|random"):
        assert line in text
    assert "Tokens in a block. (default: 16)" in text


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["serv"], "ghostfleet: unknown command 'serv'; did you mean 'serve'?"),
        (
            ["frobnicate"],
            "ghostfleet: unknown command 'frobnicate'; there are serve, up, status, apply, down, import, operator",
        ),
        (
            ["serve", "--max-num-seqz", "1"],
            "ghostfleet serve: --max-num-seqz: unknown flag; did you mean --max-num-seqs?",
        ),
        (
            ["serve", "m", "--ssl-keyfile", "key.pem"],
            "ghostfleet serve: --ssl-keyfile: there is no TLS; put a proxy in front",
        ),
        (["serve"], "ghostfleet serve: --model: required, but not given"),
        (
            ["serve", "m", "--seed", "-1"],
            "ghostfleet serve: --seed: Input should be greater than or equal to 0, not '-1'",
        ),
        (["up", "-f", "/gone.yaml"], "ghostfleet up: /gone.yaml: cannot be read: No such file or directory"),
        (
            ["up", "-f", "/gone.yaml", "--detach"],
            "ghostfleet up: /gone.yaml: cannot be read: No such file or directory",
        ),
        (["up"], "ghostfleet up: the following arguments are required: -f/--file"),
        (["up", "-f", "x", "--detahc"], "ghostfleet up: --detahc: unknown flag; did you mean --detach?"),
        (["up", "-f", "x", "--drain", "soon"], "ghostfleet up: --drain: invalid int value: 'soon'"),
        (["status", "extra"], "ghostfleet status: extra: unexpected argument"),
        (["operator", "--workers", "0"], "ghostfleet operator: --workers: '0' is not a whole number of at least 1"),
        (
            ["operator", "--health-port", "80800"],
            "ghostfleet operator: --health-port: '80800' is not a whole number of at least 0 and at most 65535",
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(words: list[str], line: str, tmp_path: Path) -> None:
    """No usage text, no traceback: what is wrong and what was meant."""
    result = run(*words, XDG_RUNTIME_DIR=str(tmp_path))
    assert (result.returncode, result.stdout, result.stderr) == (2, "", line + "\n")


@pytest.mark.parametrize("command", ["status", "apply"])
def test_without_a_fleet(command: str, tmp_path: Path) -> None:
    """Commands on a fleet say that there is none, and where they looked; `down` has nothing to do."""
    words = ["apply", "-f", "x"] if command == "apply" else [command]
    result = run(*words, XDG_RUNTIME_DIR=str(tmp_path))
    folder = tmp_path / "ghostfleet"
    assert result.returncode == 1
    assert (
        result.stderr
        == f"ghostfleet {command}: no fleet runs (state folder {folder}); `ghostfleet up -f FILE` starts one\n"
    )
    assert run("down", XDG_RUNTIME_DIR=str(tmp_path)).returncode == 0


def test_all_problems_of_a_fleet_are_told_and_nothing_starts(tmp_path: Path) -> None:
    """One line each, exit code 2, no state left."""
    file = tmp_path / "fleet.yaml"
    file.write_text(
        "apiVersion: ghostfleet.dev/v1alpha1\nkind: SimulatedModelServer\nmetadata: {name: one}\n"
        "spec: {model: {name: m}, replicas: -1, sed: 3, profile: {}, profileRef: {name: x}}\n"
    )
    result = run("up", "-f", str(file), XDG_RUNTIME_DIR=str(tmp_path))
    assert result.returncode == 2
    lines = result.stderr.splitlines()
    assert len(lines) >= 2
    assert all(line.startswith(f"ghostfleet up: {file}: SimulatedModelServer one: spec") for line in lines)
    assert not (tmp_path / "ghostfleet" / "fleet.json").exists()


def test_a_state_folder_that_cannot_be_is_told(tmp_path: Path) -> None:
    """The flag is named, and why it does not work."""
    file = tmp_path / "file"
    file.write_text("")
    result = run("up", "-f", str(file), "--state", str(file / "below"))
    assert result.returncode == 2
    assert result.stderr == f"ghostfleet up: --state {file / 'below'}: cannot be used: Not a directory\n"


def test_what_the_system_refuses_is_told_as_such(tmp_path: Path) -> None:
    """A folder that cannot be made is no mistake in ghostfleet."""
    fleet, file = tmp_path / "fleet.yaml", tmp_path / "file"
    fleet.write_text(
        "apiVersion: ghostfleet.dev/v1alpha1\nkind: SimulatedModelServer\nmetadata: {name: one}\n"
        "spec: {model: {name: m}, profile: {}}\n"
    )
    file.write_text("")
    result = run("up", "--detach", "-f", str(fleet), "--state", str(file / "below"))
    assert result.returncode == 1
    assert result.stderr == f"ghostfleet up: {file / 'below'}: Not a directory\n"


@pytest.mark.parametrize(
    ("content", "words"), [(b"", ""), (b"a word", ""), (b"\xff\xfe", "'utf-8' codec"), (None, "no such file")]
)
def test_a_kubeconfig_that_says_nothing_is_told(content: bytes | None, words: str, tmp_path: Path) -> None:
    """One line that names the file."""
    key, config = tmp_path / "key", tmp_path / "config"
    key.write_text("k" * 32)
    if content is not None:
        config.write_bytes(content)
    result = run("operator", "--key-file", str(key), "--kubeconfig", str(config), "--health-port", "0")
    assert result.returncode == 1
    line = result.stderr.splitlines()[-1]
    assert line.startswith(f"ghostfleet operator: no credentials for Kubernetes in {config}: {words}")


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--leader-elect-renew-deadline", "15"], "the lease duration (15 s) must be longer than the renew deadline"),
        (
            ["--leader-elect-retry-period", "9"],
            "the renew deadline (10 s) must be longer than 1.2 retry periods",
        ),
    ],
)
def test_an_election_that_cannot_work_is_refused(tmp_path: Path, flags: list[str], complaint: str) -> None:
    """Times with which two could write at once, or one lost try would end a leader, are told before anything begins."""
    key = tmp_path / "key"
    key.write_text("k" * 32)
    result = run("operator", "--key-file", str(key), "--leader-elect", *flags)
    assert (result.returncode, result.stderr) == (2, f"ghostfleet operator: --leader-elect: {complaint}\n")


def test_an_election_outside_of_a_cluster_needs_a_namespace(tmp_path: Path) -> None:
    """Where the Lease is cannot be guessed."""
    key = tmp_path / "key"
    key.write_text("k" * 32)
    result = run("operator", "--key-file", str(key), "--leader-elect")
    flag = "--leader-elect-resource-namespace"
    assert (result.returncode, result.stderr) == (
        2,
        f"ghostfleet operator: {flag}: required outside of a cluster, but not given\n",
    )


def test_a_taken_port_is_one_line(tmp_path: Path) -> None:
    """A second server on the same port ends with a line that names it."""

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        result = run("serve", "m", "--host", "127.0.0.1", "--port", str(port))
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in result.stderr


def test_output_that_nobody_reads_is_no_failure_to_explain() -> None:
    """`ghostfleet serve --help | head -1` says nothing about broken pipes."""
    result = subprocess.run(
        f"{GHOSTFLEET} serve --help | head -1", shell=True, capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stderr == ""


def test_ctrl_c_is_quiet(tmp_path: Path) -> None:
    """A server that is interrupted ends with code 0 and without a traceback."""
    log, port = tmp_path / "log", free_port()
    with log.open("w") as output:
        process = subprocess.Popen(
            [GHOSTFLEET, "serve", "m", "--host", "127.0.0.1", "--port", str(port)], stderr=output
        )
    end = time.monotonic() + 30
    while "Application startup complete" not in log.read_text():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    assert "Traceback" not in log.read_text()


def test_the_operator_without_its_extra_says_what_to_install(tmp_path: Path) -> None:
    """The base distribution has no Kubernetes client; the line names the command that brings it."""
    hidden = tmp_path / "sitecustomize.py"
    hidden.write_text(
        "import importlib.util as u\nfound = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'kopf' else found(name, *rest)\n"
    )
    result = run("operator", PYTHONPATH=str(tmp_path))
    assert result.returncode == 1
    assert result.stderr == (
        "ghostfleet operator: needs kopf, which the extra `operator` brings: "
        f"pip install 'ghostfleet[operator]=={__version__}'\n"
    )


# --- in the place of llm-d-inference-sim -------------------------------------------------------------


LLMD = "llm-d-inference-sim"


@pytest.mark.parametrize("words", [["serve", "--as", LLMD], ["serve", f"--as={LLMD}"], ["--as", LLMD], ["--model=m"]])
def test_its_command_line_is_judged_by_its_rules(words: list[str]) -> None:
    """By a flag or a variable, with the word `serve` or, as in a pod's args, without it."""
    variables = {} if LLMD in " ".join(words) else {"GHOSTFLEET_AS": LLMD}
    result = run(*words, "--model", "m", "--block-size", "24", **variables)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "ghostfleet serve: --block-size: 24 is not one of 8, 16, 32, 64, 128\n"


def test_the_flag_comes_before_the_variable_of_an_image() -> None:
    """As in the operator's pods, which are vLLM's servers whatever image they run."""
    flags = run("serve", "--as", "vllm", "--help", GHOSTFLEET_AS=LLMD).stdout
    assert flags == run("serve", "--help").stdout != run("serve", "--as", LLMD, "--help").stdout


def test_its_flags_are_explained() -> None:
    result = run("serve", "--as", LLMD, "--help")
    assert result.returncode == 0
    assert "\n  --max-num-seqs (default: 5)\n      is scheduling.maxNumSeqs\n" in result.stdout


@pytest.mark.parametrize(
    ("words", "problem"),
    [(["--as"], "needs a value"), (["--as", "tgi"], "'tgi' is not one of vllm, llm-d-inference-sim")],
)
def test_other_programs_are_not_known(words: list[str], problem: str) -> None:
    result = run("serve", *words)
    assert (result.returncode, result.stderr) == (2, f"ghostfleet serve: --as: {problem}\n")
