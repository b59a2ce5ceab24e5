"""Where our CRDs differ from a rule on purpose, and why."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final


@dataclass(frozen=True, slots=True)
class Exemption:
    """Fields that a rule is not about, by a pattern in which `*` is any part of a path."""

    rule: str
    path: str
    reason: str

    def covers(self, rule: str, path: str) -> bool:
        """Whether a finding of `rule` at `path` is meant."""
        return rule == self.rule and fnmatchcase(path.replace("[", "<"), self.path.replace("[", "<"))


_ABBREVIATED: Final = {
    "spec.model.maxModelLen": "vLLM's flag --max-model-len",
    "spec.scheduling.maxNumSeqs": "vLLM's flag --max-num-seqs",
    "spec.scheduling.maxNumBatchedTokens": "vLLM's flag --max-num-batched-tokens",
    "spec.scheduling.maxNumQueued*": "vLLM's flags --max-num-queued-reqs and --max-num-queued-tokens",
    "spec.scheduling.reserveFullIsl": "vLLM's scheduler_reserve_full_isl",
    "spec.kvCache.prefixCachingHashAlgo": "vLLM's flag --prefix-caching-hash-algo",
    "*.kvCacheDtype": "vLLM's flag --kv-cache-dtype",
    "*StdDev": "llm-d-inference-sim's settings, such as --time-to-first-token-std-dev",
    "*.length.stdDev": "as the deviations of times are called",
    "*.stepTime.per*Us": "the law of a step's length is written with these names wherever it is fitted",
    "*.overheads.seqUs": "as in the law of stepTime",
    "*.efficiency.gemm*": "a matrix product is a GEMM to everybody who measures one",
    "*.noise.request.cv": "the coefficient of variation is CV in every textbook",
}
EXEMPTIONS: Final = (
    *(Exemption("no_abbreviations", path, reason) for path, reason in _ABBREVIATED.items()),
    Exemption("booleans_say_what_they_do", "spec.http.disableFastapiDocs", "vLLM's flag --disable-fastapi-docs"),
    Exemption("times_have_units", "spec.api.streamInterval", "vLLM's flag --stream-interval, which counts tokens"),
    Exemption("enums_are_camel_case", "spec.kvCache.prefixCachingHashAlgo", "vLLM's values"),
    Exemption("enums_are_camel_case", "spec.kvEvents.publisher", "vLLM's values"),
    Exemption("enums_are_camel_case", "spec.kvTransfer.*", "vLLM's values"),
    Exemption("fields_are_described", "spec.profile.*", "`kubectl explain latencyprofile.spec` tells of them"),
    Exemption("objects_in_lists_have_a_required_field", "spec.pod.tolerations[]", "a toleration as in a Pod"),
    Exemption("status_asks_for_nothing", "status", "as in Gateway API: tells from the first that nobody looked yet"),
)
