"""From a command line, the environment and a file to the configuration of one server.

Precedence: flag, environment, file, default. Where the file is a document (it has a revision), its live fields are in
force and live flags have no effect: the document is what an operator pushes and a restart must not undo it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from ghostfleet_simulator.arguments import (
    FAKE_METRICS_FLAG,
    RATE_FLAG,
    TYPES_FLAG,
    ForeignFlag,
    Setting,
    foreign_flags,
    scan,
    settings,
)
from ghostfleet_simulator.config import (
    BY_RATE,
    TYPED_ERRORS,
    FailureType,
    LogFormat,
    LogLevel,
    ServerConfig,
    equal_shares,
)
from ghostfleet_simulator.document import Document
from ghostfleet_simulator.files import read_mapping
from ghostfleet_simulator.flag_values import KV_TRANSFER_FLAG, Given, as_words, choice_of, object_of, single, value_of
from ghostfleet_simulator.llmd.fake_metrics import fake_metrics
from ghostfleet_simulator.llmd.settings import NO_TLS, LlmdSettings
from ghostfleet_simulator.problems import InvalidInput, Problem, nearest, validated

_TLS: Final = ("ssl-certfile", "ssl-keyfile")
_VLLM_SEED: Final = "PYTHONHASHSEED"
_VLLM_VARIABLES: Final = {
    _VLLM_SEED: "hash-seed",
    "VLLM_SERVER_DEV_MODE": "server-dev-mode",
    "VLLM_API_KEY": "api-key",
    "VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES": "kv-events-int-block-hashes",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "allow-runtime-lora-updating",
    "VLLM_NIXL_SIDE_CHANNEL_HOST": "kv-side-channel-host",
    "VLLM_NIXL_SIDE_CHANNEL_PORT": "kv-side-channel-port",
    "VLLM_MOONCAKE_BOOTSTRAP_PORT": "kv-bootstrap-port",
}
"""Variables that vLLM reads; an empty one says something only of the seed."""
_SERVICE_LINK: Final = re.compile(r"(tcp|udp|sctp)://")


@dataclass(frozen=True, slots=True)
class Options:
    """What belongs to the process of `ghostfleet serve` rather than to the server it hosts."""

    log_level: LogLevel = LogLevel.INFO
    log_format: LogFormat = LogFormat.TEXT
    config_path: Path | None = None
    """The file the configuration came from; followed if it holds a document with a revision."""
    admin_token_file: Path | None = None
    """File whose content clients of the admin API must present as bearer token."""
    api_keys: tuple[str, ...] = ()
    """Keys of which a request to the serving API must bring one as bearer token; without any it needs none."""
    live_file: Path | None = None
    """File that keeps the document in force over restarts of the process."""
    llmd: LlmdSettings | None = None
    """What llm-d-inference-sim's command line said, where that was it."""


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A configuration to start with; `document` is there where the file was one; `warnings` are one line each."""

    config: ServerConfig
    document: Document | None
    warnings: tuple[str, ...]
    options: Options


@dataclass(slots=True)
class _File:
    """A configuration file taken apart."""

    path: Path | None = None
    tree: dict[str, Any] = field(default_factory=dict)
    flags: dict[str, Given] = field(default_factory=dict)
    skipped: list[ForeignFlag] = field(default_factory=list)
    document: Document | None = None

    def place(self, path: str) -> str:
        """How a problem names a path in this file."""
        parts = [str(self.path), "config" if self.document and path else "", path]
        return f"{parts[0]}: {'.'.join(filter(None, parts[1:]))}" if path else parts[0]


def load(argv: Sequence[str], environ: Mapping[str, str], base: Mapping[str, Any] | None = None) -> LoadedConfig:
    """The configuration that arguments (without the program's name), environment and file describe together.

    `base` is what another program's command line says; it counts as a file does. Raises `InvalidInput`; each problem's
    path is a flag, a variable, a field of `base`, or `FILE: field`, as it was written.
    """
    known = settings()
    arguments = scan(argv, known, cut_short=base is None)
    given = _from_environment(environ, known)
    given |= {flag: Given(values, f"--{flag}") for flag, values in arguments.values.items()}
    file = _read_file(Path(given["config"].values[-1]), known) if "config" in given else _File(tree=dict(base or {}))
    given = file.flags | given
    skipped = [*arguments.skipped, *file.skipped]
    warnings = [f"{one.spelling} is a flag of {one.program} that has no effect here; it is skipped" for one in skipped]

    # Who asks for TLS must not get a server without.
    tls = [flag.spelling for flag in skipped if flag.spelling.replace("_", "-").endswith(_TLS)]
    problems = [Problem(spelling, NO_TLS) for spelling in tls]
    tree = file.tree
    # A block before its fields, so that they change what it says.
    for flag, value in sorted(given.items(), key=lambda item: len(known[item[0]].path)):
        setting = known[flag]
        if not setting.path:
            continue
        if setting.live and file.document:
            warnings.append(f"{value.source} has no effect: {file.path} is a document, which sets {setting.dotted}")
            continue
        try:
            converted = value_of(setting, value, warnings)
        except InvalidInput as error:
            problems += error.problems
            continue
        if converted is not None:
            _place(tree, setting.path, converted)
        if flag == KV_TRANSFER_FLAG and (name := object_of(value).get("engine_id")) is not None:
            _place(tree, known[f"{flag}.engine_id"].path, name)
    try:
        _inject(tree, given, file, warnings)
        _fake(tree, given, file, warnings)
        options = _options(given, known)
    except InvalidInput as error:
        problems += error.problems
    if problems:
        raise InvalidInput(problems)
    try:
        config = validated(ServerConfig, tree)
    except InvalidInput as error:
        raise InvalidInput(
            _located(problem, given, known, file, based=base is not None) for problem in error.problems
        ) from None
    document = Document.of(config, file.document.revision) if file.document else None
    return LoadedConfig(config, document, tuple(warnings), options)


def _from_environment(environ: Mapping[str, str], known: Mapping[str, Setting]) -> dict[str, Given]:
    found = {}
    for flag, setting in known.items():
        variable = "GHOSTFLEET_" + flag.upper().replace("-", "_")
        value = environ.get(variable, "")
        # Kubernetes sets GHOSTFLEET_PORT=tcp://... in pods of a namespace with a Service called "ghostfleet".
        if value and not _SERVICE_LINK.match(value):
            found[flag] = Given(value.split() if setting.many else [value], variable)
    for variable, flag in _VLLM_VARIABLES.items():
        if flag not in found and (environ.get(variable) or (variable == _VLLM_SEED and variable in environ)):
            found[flag] = Given([environ[variable]], variable)
    return found


def _read_file(path: Path, known: Mapping[str, Setting]) -> _File:
    try:
        raw = read_mapping(path)
        if "revision" in raw or isinstance(raw.get("config"), Mapping):
            document = Document.parse(raw)
            return _File(path=path, tree=raw["config"], document=document)
        return _mixed(path, raw, known)
    except InvalidInput as error:
        raise InvalidInput(
            Problem(f"{path}: {p.path}" if p.path else str(path), p.message) for p in error.problems
        ) from None


def _mixed(path: Path, raw: Mapping[str, Any], known: Mapping[str, Setting]) -> _File:
    """Blocks of the configuration under their names, beside flag names with plain values."""
    if {"apiVersion", "kind"} <= raw.keys():
        raise InvalidInput([Problem("", f"holds objects for a cluster; `ghostfleet up -f {path}` runs those here")])
    file = _File(path=path)
    blocks = {info.alias or name for name, info in ServerConfig.model_fields.items()}
    foreign: dict[str, ForeignFlag] | None = None
    problems: list[Problem] = []
    for key, value in raw.items():
        flag = key.replace("_", "-")
        if key in blocks and (isinstance(value, Mapping) or flag not in known):
            file.tree[key] = value
        elif flag in known and flag != "config":
            try:
                file.flags[flag] = Given(as_words(key, value), f"{path}: {key}", in_file=True)
            except InvalidInput as error:
                problems += error.problems
            if value is None:
                del file.flags[flag]
        else:
            foreign = foreign_flags() if foreign is None else foreign
            if f"--{flag}" in foreign:
                file.skipped.append(
                    ForeignFlag(f"{path}: {key}", foreign[f"--{flag}"].program, foreign[f"--{flag}"].arity)
                )
                continue
            guess = nearest(key, blocks) or nearest(flag, known)
            hint = (
                f"did you mean {guess!r}?"
                if guess
                else f"allowed are the blocks {', '.join(sorted(blocks))} and flag names"
            )
            problems.append(Problem(key, f"unknown field; {hint}"))
    for flag in file.flags:
        node: Any = file.tree
        for key in known[flag].path:
            node = node.get(key) if isinstance(node, Mapping) else None
        if node is not None and known[flag].path:
            problems.append(Problem(flag, f"also given as {known[flag].dotted}"))
    if problems:
        raise InvalidInput(problems)
    return file


def _place(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    node = tree
    for key in path[:-1]:
        child = node.setdefault(key, {})
        if not isinstance(child, dict):  # the file has something else there, which validation will name
            return
        node = child
    node[path[-1]] = value


def _fake(tree: dict[str, Any], given: Mapping[str, Given], file: _File, warnings: list[str]) -> None:
    """llm-d-inference-sim's fake metrics as ours."""
    fakes = given.get(FAKE_METRICS_FLAG)
    if fakes is None:
        return
    if file.document:
        warnings.append(f"{fakes.source} has no effect: {file.path} is a document, which sets fakeMetrics")
        return
    if fakes.in_file and "fakeMetrics" in tree:
        raise InvalidInput([Problem(fakes.source, "also given as fakeMetrics")])
    if found := object_of(fakes):
        tree["fakeMetrics"] = fake_metrics(found, fakes.source)


def _inject(tree: dict[str, Any], given: Mapping[str, Given], file: _File, warnings: list[str]) -> None:
    """llm-d-inference-sim's rate and types as a list of failures in equal shares."""
    rate, types = given.get(RATE_FLAG), given.get(TYPES_FLAG)
    if rate is None:
        if types:
            warnings.append(f"{types.source} has no effect without --{RATE_FLAG}")
        return
    if file.document:
        warnings.append(f"{rate.source} has no effect: {file.path} is a document, which sets failures")
        return
    if rate.in_file and "failures" in tree:
        raise InvalidInput([Problem(rate.source, "also given as failures")])
    word = single(rate)
    if not re.fullmatch(r"\d{1,3}", word) or int(word) > 100:
        raise InvalidInput([Problem(rate.source, f"{word!r} is not a whole number of per cent from 0 to 100")])
    chosen = (
        [choice_of(word, BY_RATE, types.source) for word in types.values]
        if types and types.values
        else list(TYPED_ERRORS)
    )
    tree["failures"] = equal_shares(int(word), [FailureType(failure) for failure in chosen])


def _options(given: Mapping[str, Given], known: Mapping[str, Setting]) -> Options:
    def path(flag: str) -> Path | None:
        word = single(given[flag]) if flag in given else ""
        return Path(word) if word else None

    def choice(flag: str, default: StrEnum) -> StrEnum:
        choices = known[flag].choices
        word = single(given[flag]) if flag in given else ""
        return choice_of(word, choices, given[flag].source) if word and choices else default

    return Options(
        log_level=LogLevel(choice("log-level", LogLevel.INFO)),
        log_format=LogFormat(choice("log-format", LogFormat.TEXT)),
        config_path=path("config"),
        admin_token_file=path("admin-token-file"),
        live_file=path("live-file"),
        api_keys=tuple(key for key in given["api-key"].values if key) if "api-key" in given else (),
    )


def _located(
    problem: Problem, given: Mapping[str, Given], known: Mapping[str, Setting], file: _File, *, based: bool
) -> Problem:
    """The problem under the flag, variable or file that it comes from."""
    dotted = re.sub(r"\[\d+\]", "", problem.path)
    by_path = {setting.dotted: setting.flag for setting in known.values() if setting.path}
    flag = RATE_FLAG if dotted.startswith("failures") and RATE_FLAG in given else by_path.get(dotted)
    if flag and flag in given:
        words, shown = " ".join(given[flag].values), problem.message.partition(", unable to parse")[0]
        shown = shown if words and words in shown else f"{shown}, not {words!r}"
        return Problem(given[flag].source, shown)
    parts = dotted.split(".")
    for end in range(1, len(parts)):
        if (whole := by_path.get(".".join(parts[:end]), "")) in given:
            return Problem(given[whole].source, f"{'.'.join(parts[end:])}: {problem.message}")
    if dotted == "model" and not file.tree.get("model") and not based:
        return Problem("--model", "required, but not given")
    if file.path is None and flag and not based:
        return Problem(f"--{flag}", problem.message)
    return Problem(file.place(problem.path), problem.message) if file.path else problem
