"""What a schema cannot say of one object: in CEL for the API server, and in words where only the operator can tell.

The models check all of it, with the path of the field. CEL is here and not in the models because those of the profile
and of most of a server are the simulator's, which knows no Kubernetes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Final

from ghostfleet_operator.kinds.schema import Schema
from ghostfleet_simulator.config import METRIC_PREFIXES
from ghostfleet_simulator.problems import Problem


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of the API server's; `path` is that of the schema it belongs to, with `[]` for items of a list."""

    path: str
    rule: str
    message: str


@dataclass(frozen=True, slots=True)
class Later:
    """What the API server accepts and the models refuse: told as `Invalid` by the operator, at once by a laptop."""

    path: str
    """Fields it is about; `*` is any part of a path."""
    refusal: str
    """Regular expression that finds it in what the models say."""
    text: str

    def below(self, prefix: str) -> Later:
        """The same where paths begin with a prefix."""
        return replace(self, path=f"{prefix}.{self.path}") if prefix else self

    def covers(self, problem: Problem) -> bool:
        """Whether it is what a model said, with the path from the spec and without indices."""
        path = re.sub(r"\[\d+\]", "", problem.path).removeprefix("spec.")
        return fnmatchcase(path, self.path) and bool(re.search(self.refusal, problem.message))


def _between(path: str, low: str, high: str = "") -> Rule:
    """A decimal, which may be a string, within bounds such as `> 0` and `<= 1`."""
    bounds = [f"{sign} {number}" for sign, _, number in (bound.partition(" ") for bound in (low, high) if bound)]
    words = {">": "more than", ">=": "at least", "<=": "at most"}
    said = " and ".join(f"{words[sign]} {number}" for sign, _, number in (bound.partition(" ") for bound in bounds))
    return Rule(path, " && ".join(f"double(self) {bound}.0" for bound in bounds), f"must be {said}")


PROFILE_RULES: Final = (
    Rule(
        "",
        "self.backend == 'Simple' || "
        "{'StepTime': has(self.stepTime), 'Roofline': has(self.roofline), 'Table': has(self.table)}[self.backend]",
        "the block of the backend is required",
    ),
    _between("simple.timeFactorUnderLoad", ">= 1"),
    _between("stepTime.softMax", ">= 1", "<= 64"),
    _between("roofline.softMax", ">= 1", "<= 64"),
    _between("roofline.memoryFactor", "> 0"),
    Rule("roofline", "has(self.model) != has(self.geometry)", "set exactly one of model and geometry"),
    Rule("roofline", "has(self.gpu) != has(self.hardware)", "set exactly one of gpu and hardware"),
    Rule(
        "roofline.geometry",
        "self.experts > 0 ? self.expertsPerToken >= 1 && self.expertsPerToken <= self.experts : "
        "self.expertsPerToken + self.sharedExperts == 0",
        "expertsPerToken is from 1 to experts; without experts it and sharedExperts are 0",
    ),
    Rule(
        "roofline.hardware",
        "[self.tflops16, self.memoryGBps, self.linkGBps].all(x, double(x) > 0.0)",
        "tflops16, memoryGBps and linkGBps must be more than 0",
    ),
    Rule(
        "roofline.efficiency",
        "[self.weightRead, self.kvRead, self.gemm16, self.gemm8, self.attention, self.link]"
        ".all(x, double(x) > 0.0 && double(x) <= 1.0)",
        "every share must be more than 0 and at most 1",
    ),
    _between("noise.step.sigma", "<= 1"),
    _between("noise.stall.meanFraction", "<= 100"),
    _between("noise.request.cv", "> 0", "<= 1"),
)
"""Of a profile."""

SERVER_RULES: Final = (
    Rule(
        "",
        "!has(self.scheduling) || !has(self.scheduling.maxNumBatchedTokens) || self.scheduling.enableChunkedPrefill "
        "|| self.scheduling.maxNumBatchedTokens >= self.model.maxModelLen",
        "without chunked prefill scheduling.maxNumBatchedTokens must be at least model.maxModelLen",
    ),
    Rule("model.servedNames", "self.all(x, self.exists_one(y, x == y))", "the names must differ from each other"),
    Rule("scheduling.watermark", r"!self.matches('^(1(\\.0+)?|100(\\.0+)?%)$')", "must be below 1"),
    _between("clock.compression", ">= 1", "<= 1000"),
    Rule("answers.length", "self.min <= self.max", "min must not be above max"),
    Rule(
        "answers.length",
        "self.distribution != 'Histogram' || has(self.buckets) && self.buckets.exists(b, b.weight > 0)",
        "a histogram needs a bucket with a weight above 0",
    ),
    Rule(
        "fakeMetrics",
        "self.all(key, " + " || ".join(f"key.startsWith('{prefix}')" for prefix in METRIC_PREFIXES) + ")",
        "each key is a series that begins with " + " or ".join(METRIC_PREFIXES),
    ),
    Rule("kvTransfer", "!has(self.kvConnector) || has(self.kvRole)", "a connector needs kvRole"),
    Rule(
        "kvTransfer",
        "!has(self.kvConnector) || self.kvConnector != 'SGLang' || !has(self.kvRole) || self.kvRole != 'kv_both'",
        "with SGLang a server either prefills, kv_producer, or decodes, kv_consumer",
    ),
    Rule("failures[]", "self.type != 'HTTPError' || has(self.status)", "an HTTPError needs a status"),
    Rule("failures[]", "self.type != 'KVEventDelay' || has(self.duration)", "a KVEventDelay needs a duration"),
    Rule("failures[]", "self.type != 'KVTransferDelay' || has(self.duration)", "a KVTransferDelay needs a duration"),
    Rule(
        "failures[]",
        "self.type != 'MemoryGrowth' || has(self.growth) && has(self.limit)",
        "MemoryGrowth needs growth and limit",
    ),
    Rule("failures[]", "!has(self.duty) || has(self.period)", "duty is a share of period, which is not given"),
    Rule(
        "pod.tolerations[]",
        "self.operator == 'Exists' ? !has(self.value) || self.value == '' : has(self.key) && self.key != ''",
        "Equal needs a key, Exists takes no value",
    ),
    Rule(
        "pod.tolerations[]",
        "!has(self.tolerationSeconds) || has(self.effect) && self.effect == 'NoExecute'",
        "tolerationSeconds is for the effect NoExecute",
    ),
)
"""Of a server, beside those of its own profile."""

_QUANTITIES: Final = (
    Later("*", "finer than a nanosecond|longer than a year", "A duration is whole nanoseconds, and at most a year."),
    Later("*", r"^\d+ is not a", "A quantity that is a bare number has no more digits than one that is a string."),
)

PROFILE_LATER: Final = (
    *_QUANTITIES,
    Later("simple.tick", "is not between", "`simple.tick` is from 10us to 1s."),
    Later("simple.*StdDev", "too large for a mean", "A deviation in `simple` is at most 30 % of its mean."),
    Later("roofline.model", "is not known", "`roofline.model` is the name of a shipped model shape."),
    Later("roofline.gpu", "is not known", "`roofline.gpu` is the name of a shipped GPU."),
    Later("table.*", "there twice|no point for", "A table has each `tokens` or `sequences` with each `context`, once."),
)
"""Of a profile, with paths from there."""

SERVER_LATER: Final = (
    *_QUANTITIES,
    Later("engine.version", "whose behaviour is known", "`engine.version` is a version of vLLM that is simulated."),
    Later("answers.length.buckets*", "is not above", "`upTo` of `answers.length.buckets` grows from one to the next."),
    Later("lora.maxCpuLoras", "is below maxLoras", "`lora.maxCpuLoras` is at least `lora.maxLoras`."),
    Later("lora.enabled", "there are adapters", "With `lora.adapters` LoRA cannot be switched off."),
    Later("lora.maxLoraRank", "is not one of", "`lora.maxLoraRank` is one of the ranks that vLLM takes."),
    Later("lora.adapters.rank", "is above maxLoraRank", "The rank of an adapter is at most `lora.maxLoraRank`."),
    Later("lora.adapters.name", "is a served name", "No adapter has the name of the model, or one it is served under."),
    Later("failures", "add up to", "Probabilities of `failures` with the same `match` add up to at most 1."),
    Later(
        "failures*", "means nothing for", "A failure has only fields that its type knows; each says for which it is."
    ),
    Later("failures*", "only requests to|only answers made", "Only generation is told apart by model, and can stall."),
    Later("failures*", "at least 1 token", "A `Stall` comes after at least 1 token."),
    Later("failures*", "not both", "A `Crash` comes after a time, or at requests; not both."),
    Later("failures*", "below 100ms", "`period` is at least 100ms."),
    Later("failures*", "whole number of bytes|1 byte and 1024Ti", "A size is whole bytes: 1 to 1024Ti."),
    Later("kvCache*", "whole number of bytes|1 byte and 1024Ti", "A size of `kvCache` is whole bytes: 1 to 1024Ti."),
    Later("kvCache.tiers*", "one CPU tier", "`kvCache.tiers` are one `CPU` tier, and then perhaps one `Disk` tier."),
    Later("kvCache.tiers*", "by their hashes", "`kvCache.tiers` need `kvCache.enablePrefixCaching`."),
    Later("kvCache.tiers*", "does not hold one block", "Each of `kvCache.tiers` holds at least one block."),
    Later(
        "kvTransfer*", "whole number of bytes|1 byte and 1024Ti", "`kvTransfer.bandwidth` is whole bytes: 1 to 1024Ti."
    ),
    Later("http.allowed*", "not a JSON list", "A list in `http` whose first word begins with `[` is a JSON list."),
    Later("kvEvents*", "is not a port", "Ports in endpoints of `kvEvents` are at most 65535."),
    Later("kvEvents*", "already the port", "`kvEvents.endpoint` and `kvEvents.replayEndpoint` have different ports."),
    Later("pod.labels", "but role is", "`pod.labels` has no `llm-d.ai/role` that contradicts `role`."),
    Later("pod.*", "is not a key", "Keys of labels and annotations are `[prefix/]name`, as in Kubernetes."),
    Later("pod.resources.*", "more than the limit", "A request of `pod.resources` is at most its limit."),
)
"""Of a server, beside those of its own profile."""


def add_rules(schema: Schema, rules: Iterable[Rule], prefix: str = "") -> None:
    """Add rules to the schemas in `schema` that they belong to; `prefix` is where their paths begin."""
    for rule in rules:
        part = schema
        for name in filter(None, f"{prefix}.{rule.path}".split(".")):
            part = part["properties"][name.removesuffix("[]")]
            part = part["items"] if name.endswith("[]") else part
        part.setdefault("x-kubernetes-validations", []).append({"rule": rule.rule, "message": rule.message})
