"""`make clients`: load generators of others' making, unmodified, against a server of ours.

Each gets a virtual environment in the cache folder, made at its first run, and a fresh server that
answers after 100 ms and then every 20 ms. Each is asked for answers of exactly 32 tokens; a failed request or another
number ends the run with exit code 1. What they count with is the tokenizer that ghostfleet ships.

    make clients ARGS="aiperf guidellm"      only these
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from e2e import pypi  # noqa: E402 - found through the line above
from e2e.shell import Failure  # noqa: E402 - likewise
from tests.served import servers  # noqa: E402 - likewise

TOKENIZER = ROOT / "simulator/ghostfleet_simulator/text/data"
ISL, OSL, SECONDS, STREAMS = 64, 32, 8, 8


@dataclass(frozen=True)
class Result:
    """What a client reports."""

    requests: int
    failed: int
    output_tokens: float
    ttft_ms: float
    itl_ms: float


@dataclass(frozen=True)
class Client:
    """How a client is installed, run and read."""

    package: str
    python: str
    command: Callable[[Path, str, Path], list[str]]
    read: Callable[[Path], Result]
    environment: Mapping[str, str]


def _aiperf(folder: Path, url: str, out: Path) -> list[str]:
    return [
        *(
            str(folder / "bin/aiperf"),
            "profile",
            "--model",
            "m",
            "--url",
            url,
            "--endpoint-type",
            "chat",
            "--streaming",
        ),
        *("--concurrency", str(STREAMS), "--benchmark-duration", str(SECONDS), "--isl", str(ISL), "--osl", str(OSL)),
        *("--extra-inputs", "ignore_eos:true", "--extra-inputs", f"min_tokens:{OSL}", "--tokenizer", str(TOKENIZER)),
        *("--artifact-dir", str(out), "--no-gpu-telemetry", "--ui", "none"),
    ]


def _aiperf_result(out: Path) -> Result:
    found = json.loads(next(out.rglob("profile_export_aiperf.json")).read_text())
    errors = sum(entry["count"] for entry in found.get("error_summary") or [])
    return Result(
        int(found["request_count"]["avg"]),
        errors,
        found["output_sequence_length"]["avg"],
        found["time_to_first_token"]["p50"],
        found["inter_token_latency"]["p50"],
    )


def _guidellm(folder: Path, url: str, out: Path) -> list[str]:
    return [
        *(str(folder / "bin/guidellm"), "run", "--backend", f"kind=openai_http,target={url},model=m"),
        *("--profile", f"kind=concurrent,streams={STREAMS}", "--constraint", f"kind=max_duration,seconds={SECONDS}"),
        *("--tokenizer", f"kind=huggingface_auto,model={TOKENIZER}"),
        *("--data", f"kind=synthetic_text,prompt_tokens={ISL},output_tokens={OSL}"),
        *("--output", f"kind=json,path={out}", "--disable-console-interactive"),
    ]


def _guidellm_result(out: Path) -> Result:
    [benchmark] = json.loads(next(out.rglob("*.json")).read_text())["benchmarks"]
    totals, metrics = benchmark["metrics"]["request_totals"], benchmark["metrics"]

    def of(name: str, statistic: str) -> float:
        return float(metrics[name]["successful"][statistic])

    return Result(
        totals["successful"],
        totals["errored"],
        of("output_token_count", "mean"),
        of("time_to_first_token_ms", "median"),
        of("inter_token_latency_ms", "median"),
    )


def _inference_perf(folder: Path, url: str, out: Path) -> list[str]:
    lengths = {"min": OSL, "max": OSL, "mean": OSL, "std_dev": 0, "total_count": 100}
    config: dict[str, Any] = {
        "api": {"type": "completion", "streaming": True},
        "data": {
            "type": "random",
            "input_distribution": {**lengths, "min": ISL, "max": ISL, "mean": ISL},
            "output_distribution": lengths,
        },
        "load": {"type": "constant", "interval": 1, "num_workers": 1, "stages": [{"rate": 5, "duration": SECONDS}]},
        "server": {"type": "vllm", "model_name": "m", "base_url": url, "ignore_eos": True},
        "tokenizer": {"pretrained_model_name_or_path": str(TOKENIZER)},
        "storage": {"local_storage": {"path": str(out / "reports")}},
    }
    file = out / "config.yml"
    file.write_text(json.dumps(config))  # JSON is YAML
    return [str(folder / "bin/inference-perf"), "-c", str(file)]


def _inference_perf_result(out: Path) -> Result:
    found = json.loads(next(out.rglob("summary_lifecycle_metrics.json")).read_text())
    done, failed = found["successes"], found["failures"]["count"]
    latency = done["latency"]
    return Result(
        done["count"],
        failed,
        done["output_len"]["mean"],
        1e3 * latency["time_to_first_token"]["median"],
        1e3 * latency["inter_token_latency"]["median"],
    )


CLIENTS = {
    # With HF_HUB_OFFLINE it takes the folder of the tokenizer for the name of a repository.
    "aiperf": Client("aiperf", "3.11", _aiperf, _aiperf_result, {}),
    "inference-perf": Client(
        "inference-perf", "3.12", _inference_perf, _inference_perf_result, {"HF_HUB_OFFLINE": "1"}
    ),
    "guidellm": Client("guidellm", "3.11", _guidellm, _guidellm_result, {"HF_HUB_OFFLINE": "1"}),
}


def installed(name: str, client: Client) -> Path:
    """The client's virtual environment, made if it is not there. Raises Failure."""
    newest = [f"python3.{minor}" for minor in (14, 13, 12, 11) if minor >= int(client.python.split(".")[1])]
    pythons = [found for found in map(shutil.which, reversed(newest)) if found and _runs(found)]
    if not pythons:
        raise Failure(f"{name} needs Python {client.python} or newer, which is not on PATH")
    return pypi.programs(client.package, python=pythons[0]).parent


def _runs(python: str) -> bool:
    return subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0


def _tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def run(name: str) -> Result:
    """What the client reports of its run. Raises Failure if it ends with an error or finds anything wrong."""
    client = CLIENTS[name]
    folder = installed(name, client)
    with (
        tempfile.TemporaryDirectory() as scratch,
        servers(lambda part: Path(tempfile.mkdtemp(part, dir=scratch))) as start,
    ):
        served = start("--time-to-first-token", "100ms", "--inter-token-latency", "20ms")
        out = Path(tempfile.mkdtemp(dir=scratch))
        command = client.command(folder, served.url, out)
        _tell(f"{name}: {' '.join(command)}")
        environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
        ended = subprocess.run(
            command, env={**environment, **client.environment}, cwd=out, capture_output=True, text=True, check=False
        )
        if ended.returncode:
            raise Failure(f"{name} ended with code {ended.returncode}:\n{(ended.stdout + ended.stderr)[-4000:]}")
        try:
            result = client.read(out)
        except (StopIteration, LookupError, TypeError, ValueError) as error:
            raise Failure(f"{name} left no report ({error!r}):\n{(ended.stdout + ended.stderr)[-4000:]}") from error
        stopped = served.state()["requests"]["stop"]
    _tell(f"{name}: {result}")
    if result.failed or not result.requests or result.output_tokens != OSL or stopped:
        raise Failure(f"{name}: every request should have succeeded with {OSL} tokens; {stopped} ended by themselves")
    return result


def main() -> int:
    """Run the clients named, or all."""
    parser = argparse.ArgumentParser(prog="make clients", description="Load generators of others against ghostfleet")
    parser.add_argument("client", nargs="*", choices=[[], *CLIENTS], help="all by default")
    problems = []
    for name in parser.parse_args().client or CLIENTS:
        try:
            run(name)
        except Failure as problem:
            problems.append(problem)
            _tell(str(problem))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
