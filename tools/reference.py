"""Write the generated pages of docs/ from the settings and the declared metrics; `--check` compares."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Final

from ghostfleet_operator.kinds.generated import command
from ghostfleet_operator.kinds.reference import code, type_text
from ghostfleet_operator.kinds.schema import fields, structural
from ghostfleet_simulator.arguments import PROCESS_OPTIONS, Setting, settings
from ghostfleet_simulator.config import LIVE_FIELDS, ServerConfig
from ghostfleet_simulator.llmd.settings import SETTINGS, shown_default
from ghostfleet_simulator.metrics import (
    http,
    lora,
    offload,
    own,
    process,
    sglang,
    sleep,
    tensorrt_llm,
    transfer,
    triton,
    vllm,
)
from ghostfleet_simulator.metrics.families import Family, Kind
from ghostfleet_simulator.metrics.render import bound_text

_NOTICE: Final = "<!-- Made by `python tools/reference.py`; do not edit. -->\n"

_CONFIGURATION: Final = """\
# Configuration of a server

A setting is given as a flag of `ghostfleet serve`, in the environment, or in a file (`--config`); without any of them
it has its default. A flag wins over the environment, the environment over the file. The variable of a flag is its name
in capitals after `GHOSTFLEET_`: `--max-num-seqs` is `GHOSTFLEET_MAX_NUM_SEQS`. Where the file is a document, live
settings are the document's, whatever the flags say. Flags of `vllm serve` and of llm-d-inference-sim that mean nothing
here are skipped with a warning (but `--ssl-certfile` and `--ssl-keyfile`, for there is no TLS); any other unknown
flag is an error.

Quantities have units: `12.5ms`, `1.5s`, `250us`; a bare number is milliseconds. Probabilities are strings, `"0.05"` or
`"5%"`. Unknown fields are refused, and the nearest known one is named.

*Live* settings change in a running server at once, the others with its next start.

## Settings

| field | flag | type | default | change | meaning |
| --- | --- | --- | --- | --- | --- |
{settings}

## Options of the process

| flag | values | default | meaning |
| --- | --- | --- | --- |
{options}

## Changing a running server

The admin API listens on a port of its own (`--admin-port`; 9101 in a pod). With `--admin-token-file` every route but
`/admin/ready` wants `Authorization: Bearer <token>`. A replaced file is read again; each line of it is a token, so
that an old one can go on for a while beside the new one.

| request | answer |
| --- | --- |
| `GET /admin/config` | The document in force. |
| `PUT /admin/config` | Takes over a document: 200 with `revision`, `hash`, `appliedAt` and `pendingRestart`, the \
paths of settings that wait for a restart. |
| `PATCH /admin/config` | Takes over some live fields, a JSON merge patch (RFC 7396); answers as `PUT` does. |
| `GET /admin/state` | What runs: revision, hash, hash of what needs a restart, readiness, counters, queue, cache use; \
and of each data-parallel rank, as `ranks`, its counters, queue, cache use and KV events. |
| `GET /admin/requests?limit=` | `total`, how many answers have ended since the start, and as `requests` the last \
of them, the newest first, at most 256; with what the server was doing when each came: `foundRunning`, \
`foundWaiting`, `foundKvUsage`, and which data-parallel `rank` answered. |
| `GET /admin/ready` | 200, or 503 while starting or draining, or when `Unready` is injected. |
| `POST /admin/drain` | 202; readiness goes, running requests go on. |

A document is `{{"revision": 7, "hash": "sha256:...", "config": {{...}}}}`: the whole configuration, a number that only
grows, and the hash of its live part. `hash` may be left out; given, it must be right. Without `revision` a document
counts as the next one if its live part differs.

* A newer revision replaces the one in force, whole or not at all.
* An older one is refused (409), and so is the same one with a hash other than the one it first came with.
* An invalid one is refused (422) with the path of every wrong field. What is in force stays in force.
* A `PATCH` changes the hash and not the revision. The original document, put again, ends it.

The same document can lie in the file of `--config`; a change of the file is taken over by the same rule.

What is in force is told by `GET /admin/state`, by the metric `ghostfleet_profile_info` and by the header
`x-ghostfleet-revision` of every response; an injected failure by the header `x-ghostfleet-fault`. What can be injected
is in [faults.md](faults.md).
"""

_METRICS: Final = """\
# Metrics

`GET /metrics` on the serving port answers what a server of the engine answers that `engine.dialect` names; see
[dialects.md](dialects.md). Unless told otherwise that is vLLM 0.33, family by family: names, labels, buckets,
and series that are there at 0 before the first request. Families that vLLM has only with a feature switched on, such
as LoRA or a KV connector, come with the feature. Our own families begin with `ghostfleet_`.

The text is that of prometheus_client, with one difference: whole numbers are written `3` and not `3.0`, because
some scrapers read counts with integer parsers. Counters, histograms and summaries have a `_created` series, as on a
vLLM server, unless the environment variable `PROMETHEUS_DISABLE_CREATED_SERIES` is `true`.

Times in histograms are those of the engine: a sequence that is paced at 20 ms reports 20 ms plus what the machine was
late. `ghostfleet_wake_lateness_seconds` tells how late that was.

## Engine

### vLLM

All have the labels `model_name`, the first served name, and `engine`, the data-parallel rank, unless other labels are
given.

{engine}

### SGLang

Unless other labels are given, all have `model_name`, those of its scheduler also `engine_type` (`unified`), `tp_rank`,
`pp_rank` and `moe_ep_rank`.

{sglang}

### TensorRT-LLM

All have the labels `model_name` and `engine_type`.

{tensorrt_llm}

### Triton

All have the labels `model` and `version`. `nv_trt_llm_*` and `nv_llm_*` are there with the dialect `TritonTensorRTLLM`
only.

{triton}

## HTTP

Of vLLM only.

{http}

## Process

Of vLLM only. Servers that share a process report the same values.

{process}

## Ghostfleet's own

{own}
"""


def _row(*cells: str) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def _spelt(setting: Setting) -> str:
    short = f", `-{setting.short}`" if setting.short else ""
    return f"`--{'[no-]' * setting.switch}{setting.flag}`{short}"


def configuration() -> str:
    """The page of the settings."""
    flags = {setting.path: _spelt(setting) for setting in settings().values() if setting.path}
    rows = []
    for path, field, required in fields(structural(ServerConfig)):
        keys = tuple(path.removesuffix("[]").split("."))
        change = "live" if keys[0].removesuffix("[]") in LIVE_FIELDS else "restart"
        default = "required" if required else code(field["default"]) if field.get("default") not in (None, "") else ""
        rows.append(
            _row(f"`{path}`", flags.get(keys, ""), type_text(field), default, change, field.get("description", ""))
        )
    options = [
        _row(
            f"`--{option.flag}`",
            ", ".join(f"`{choice.value}`" for choice in option.choices) if option.choices else "",
            f"`{option.default}`" if option.default else "",
            option.help,
        )
        for option in PROCESS_OPTIONS
    ]
    return _NOTICE + _CONFIGURATION.format(settings="\n".join(rows), options="\n".join(options))


def _families(module: object) -> list[Family]:
    return [family for family in vars(module).values() if isinstance(family, Family)]


_FROM_LLMD: Final = """\
# Coming from llm-d-inference-sim

A command line, a file or a manifest that is written for llm-d-inference-sim works here as it is. Facts about it are
those of its commit eec055a (August 2026).

## Swap it

| what you have | what to change |
| --- | --- |
| a command line | put `ghostfleet serve --as llm-d-inference-sim` in the place of `llm-d-inference-sim` |
| a container | take the image `ghostfleet-sim` and set the variable `GHOSTFLEET_AS=llm-d-inference-sim`; `args` stay |
| many of them | build an image for them with `--build-arg AS=llm-d-inference-sim`: only its name changes then; \
servers of the operator run as before from either |
| a manifest that the operator shall run | [import](#import-it) it |
| code that calls `/admin/config`, `/fake_metrics`, `/health/ready` | nothing |

```sh
ghostfleet serve --as llm-d-inference-sim --model food-review --mode echo --time-to-first-token 100ms --v 4
```

In a pod `args` take the place of the image's own `serve`; where they begin with a flag, they are those of a server. A
`command` of `/app/llm-d-inference-sim` is there, too. With kustomize:

```yaml
images:
- {{name: ghcr.io/llm-d/llm-d-inference-sim, newName: registry.example/ghostfleet-sim, newTag: 0.1.0}}
patches:
- target: {{kind: Deployment}}
  patch: |
    - op: add
      path: /spec/template/spec/containers/0/env/-
      value: {{name: GHOSTFLEET_AS, value: llm-d-inference-sim}}
```

A renderer beside the simulator (`vllm launch render`) has nothing to do any more and can be taken out.

Its flags keep their names, defaults and rules; `--config FILE`, `SIM_MODEL`, `PYTHONHASHSEED`, `VLLM_SERVER_DEV_MODE`,
`POD_IP`, `POD_NAME` and `POD_NAMESPACE` (or `NAMESPACE`) mean what they mean there. Flags of `ghostfleet serve` that it
does not have, such as `--admin-port`, `--log-format` or `--vllm-version`, may stand among them. One line for each flag
that is not quite the same here says what becomes of it. What is wrong is one line and exit code 2, where
llm-d-inference-sim ends with 0.

A server that is configured in another way has its routes with `http.llmdSimRoutes` (`--llmd-sim-routes`).

## Import it

`ghostfleet import` turns it into a `SimulatedModelServer` and a `LatencyProfile`, for the operator or for
`ghostfleet up`:

```sh
kustomize build overlays/test | envsubst | ghostfleet import - > fleet.yaml
ghostfleet import -- --model food-review --max-num-seqs 5 --time-to-first-token 100ms
ghostfleet import --to config config.yaml          # a file for `ghostfleet serve --config`
ghostfleet import body.json                        # of its POST /admin/config: a patch for PATCH /admin/config
```

Of manifests everything comes out again, in its place: Deployments, StatefulSets, ReplicaSets and Pods with a container
of the simulator (by its image, or by `--container`) as ours, the rest as it is. Labels and annotations of the pods are
kept, so Services and InferencePools go on finding them; an autoscaler is turned to the new object; a Service that the
operator would make itself is left out. Variables and files of ConfigMaps are read where these are among the documents.

Standard error has the report, for each object what was translated, approximated, not needed and dropped, and what
somebody should look at, such as ports that nobody listens on any more: pods of the operator have port 8000. With
`--strict` the exit code is 1 where anything was approximated, dropped or has to be looked at. Pods of the operator have
one container, so what needs the routing sidecar stays a Deployment of its own, with our image in it.

## What is different, and why

| | llm-d-inference-sim | here |
| --- | --- | --- |
| times | cut to whole milliseconds; each request sleeps by itself | exact to the microsecond; one engine for all |
| a client that leaves | its slot stays taken to the end | its request ends at the next step, its blocks are free |
| KV cache | only prompts take blocks; a full cache is an error 500 | answers take blocks, too; where it is full, \
requests wait or are preempted, as in vLLM |
| block hashes | FNV | vLLM's, derived from content |
| KV events | sequence numbers from 1; only connects, also to `tcp://*:5557` | from 0; binds where there is a `*`, so \
that a scheduler can subscribe to each pod; tells of answers, too |
| prompts found in the cache | the whole of one | all but its last token, as in vLLM |
| metrics | vLLM's names, two of them misspelt; series come late and are lost under load | vLLM's names and labels \
(`engine`, `finished_reason`), there from the start |
| time to first token in metrics | without the queue, the nominal value | as a client sees it |
| fake metrics | nothing but them; misled load factor | those named, over the truth; can be had at any time |
| `--enable-kvcache false`, `--enable-sleep-mode=false` | on | off |
| a duration without a unit | refused | milliseconds, with a warning; in `/admin/config` nanoseconds, as there |
| `global-cache-hit-threshold`, `total-prompt-tokens` in a file | lost | read |
| prefill and decode | nobody is asked: made-up parameters, finish reason `remote_decode` | `NixlConnector`: \
KV cache is [fetched for real](disaggregation.md), or else the prompt computed here; finish reason `length`. The side \
channel has port 10000 + `port` % 20000 (`--kv-side-channel-port`); blocks wait 30 s to be fetched. With Mooncake give \
`--kv-transfer-config` and `--kv-bootstrap-port` |
| a request beyond the context | found out when it has waited | refused at once |
| echo | never cut | cut at `max_tokens`; without it whole |
| random texts | eleven sentences | other ones; lengths are distributed in the same way |
| tokens | a renderer beside it for names of real models | the tokenizer that comes along, or a folder (`--tokenizer`) |
| `X-Return-Error` | any number | 400 to 599 |
| loading adapters | anything goes | vLLM's checks and answers |
| tools in a chat | called at random | taken, and answered in words; 501 where a call is demanded |
| `/v1/responses`, `/v1/messages`, `/v1/embeddings`, gRPC, TLS, answers with images | there | not there |
| errors, streams, ids | its own subset | vLLM's, field by field |
| version of vLLM that is shown | none | 0.19, or 0.24 with `use-vllm-map-event-format`: those write KV events with \
its fields; `--vllm-version` says otherwise |
| `POST /admin/config` on a pod of the operator | | holds until the operator restores its own |

## Each setting

*same*: means the same. *close*: means nearly the same. *not needed*: nothing is lost without it. *missing*: there is
nothing like it yet; it is taken, and a line says so. TLS is the exception: a server that cannot encrypt does not start.

| flag, key | default | | field here | remark |
| --- | --- | --- | --- | --- |
{settings}

Flags of klog: `-v` and `--v` from 4 on are `--log-level debug`; the others are not needed.
"""


def _buckets(family: Family) -> str:
    if family.kind is not Kind.HISTOGRAM:
        return ""
    if not family.bounds:
        return "1, 2, 5, 10, 20, ... up to `model.maxModelLen`"
    return " ".join(map(bound_text, family.bounds))


def _table(families: Iterable[Family], common: tuple[str, ...] = ()) -> str:
    rows = ["| name | type | labels | meaning | changes | buckets |", "| --- | --- | --- | --- | --- | --- |"]
    for family in families:
        labels = [f"`{label}`" for label in family.labels if label not in common]
        many = len(labels) > 10
        rows.append(
            _row(
                f"`{family.exposed}`",
                family.kind.value,
                f"{len(labels)} labels, the fields of vLLM's CacheConfig" if many else ", ".join(labels),
                family.help,
                family.moves,
                _buckets(family),
            )
        )
    return "\n".join(rows)


def metrics() -> str:
    """The page of the metrics."""
    return _NOTICE + _METRICS.format(
        engine=_table(
            [*_families(vllm), *_families(lora), *_families(offload), *_families(transfer), *_families(sleep)],
            ("model_name", "engine"),
        ),
        sglang=_table(_families(sglang), ("model_name", "engine_type", "tp_rank", "pp_rank", "moe_ep_rank")),
        tensorrt_llm=_table(_families(tensorrt_llm), ("model_name", "engine_type")),
        triton=_table(_families(triton), ("model", "version")),
        http=_table(_families(http)),
        process=_table(process.FAMILIES),
        own=_table(own.FAMILIES),
    )


def from_llmd() -> str:
    """The page for those who come from llm-d-inference-sim."""
    rows = []
    for setting in SETTINGS.values():
        becomes, default = setting.becomes, shown_default(setting.name)
        mark = " (live)" if setting.hot else ""
        field = f"`{becomes.field}`" if becomes.field else ""
        rows.append(
            _row(f"`{setting.name}`{mark}", code(default) if default else "", becomes.fate.value, field, becomes.why)
        )
    return _NOTICE + _FROM_LLMD.format(settings="\n".join(rows))


def generated() -> dict[str, str]:
    """The pages: path from the root of the project, and text."""
    return {
        "docs/configuration.md": configuration(),
        "docs/from-llm-d-inference-sim.md": from_llmd(),
        "docs/metrics.md": metrics(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    return command("python tools/reference.py", __doc__, generated, arguments, differs="out of date; run `make crds`")


if __name__ == "__main__":
    sys.exit(main())
