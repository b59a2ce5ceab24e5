"""Which document each pod should run while a new one makes its way to all of them; pure.

`advance` is the whole rule: from what the ConfigMap holds, what is wanted and what pods say to what the ConfigMap
should hold. The same input gives the same answer, and that answer is left as it is while nothing new is seen, so a pass
may be cut off anywhere and another process goes on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from ghostfleet_operator.kinds.rollout import Rollout, Step, Strategy
from ghostfleet_operator.plan.observed import DOCUMENT_FILE, Replica
from ghostfleet_operator.resolve import Resolved
from ghostfleet_simulator.config import LiveConfig, ServerConfig
from ghostfleet_simulator.document import Document

JUDGED_REQUESTS: Final = 20
"""Requests of a wave from which on the share of those that failed is looked at."""
INVALID_DOCUMENT: Final = 422
"""Status with which a server refuses a document that it can never take."""
CONFLICT: Final = 409
"""Status with which a server refuses a document for its number."""
_MOST_KEPT: Final = 10


@dataclass(frozen=True, slots=True)
class Member:
    """A pod of the wave: its counters when it joined, and since when it has not run what it should."""

    restarts: int = 0
    requests: int = 0
    errors: int = 0
    behind: datetime | None = None


@dataclass(frozen=True, slots=True)
class Canary:
    """A document that only a wave of pods runs. `held` is since when all of them have."""

    document: Document
    began: datetime
    step: int = 0
    members: Mapping[str, Member] = field(default_factory=dict)
    held: datetime | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """A document whose wave failed, and under which rollout policy (a hash): the two together are not tried again."""

    revision: int
    hash: str
    policy: str
    reason: str
    message: str
    time: datetime


@dataclass(frozen=True, slots=True)
class Truth:
    """What the ConfigMap of a server holds."""

    stable: Document
    """What a pod that starts reads, and every pod outside of a wave runs."""
    canary: Canary | None = None
    rejected: Rejected | None = None
    file: str = DOCUMENT_FILE
    """Key under which `stable` is. Another one than the usual means that pods keep what they started with."""
    kept: Mapping[str, Document] = field(default_factory=dict)
    """Documents of older pods, by key."""

    @property
    def target(self) -> Document:
        """What all pods should run in the end."""
        return self.canary.document if self.canary else self.stable

    @property
    def highest(self) -> int:
        """The highest revision that was given out."""
        return max(revision_of(document) for document in (self.stable, self.target, *self.kept.values()))

    def due(self, name: str, file: str) -> Document | None:
        """What the pod `name`, which reads `file`, should run now; None where that is not known any more."""
        if self.canary and name in self.canary.members:
            return self.canary.document
        if self.file not in (DOCUMENT_FILE, file):
            return self.kept.get(file)
        return self.stable


def revision_of(document: Document) -> int:
    """Revision of a document that was given out; those always have one."""
    return document.revision or 0


def file_of(strategy: Strategy, document: Document) -> str:
    """Key of the ConfigMap for a document: with `Restart` each hash has its own, so that pods keep theirs."""
    if strategy is Strategy.HOT_RELOAD:
        return DOCUMENT_FILE
    return f"server-{document.hash.removeprefix('sha256:')[:12]}.json"


def advance(
    truth: Truth | None, resolved: Resolved, pods: Sequence[Replica], *, floor: int, settled: bool, now: datetime
) -> Truth:
    """What the ConfigMap should hold next.

    `truth` is what it holds, `floor` the highest revision that was seen in the status; `settled` says whether the
    Deployment has replaced all pods that it means to.
    """
    policy, wanted = resolved.server.spec.rollout, Document.of(resolved.config)
    if truth is None:
        highest = max([floor, *(pod.revision or 0 for pod in pods)])
        stable = _numbered(wanted, highest + 1)
        return Truth(stable, file=file_of(policy.strategy, stable))
    following = _above(_renewed(truth, resolved.config), pods, floor)
    following = _towards(following, wanted, policy, pods, now)
    return _filed(following, truth, policy.strategy, pods, settled=settled)


def judged(truth: Truth, policy: Rollout, pods: Sequence[Replica], now: datetime) -> Truth:
    """What the ConfigMap should hold next while it is not known what is wanted.

    A wave gets no further and no new pods, but one that fails goes back: what protects the others needs no valid spec.
    """
    return _judged(truth, truth.canary, policy, pods, now) if truth.canary else truth


def due_in(truth: Truth, policy: Rollout, now: datetime) -> float | None:
    """Seconds until time alone may change something; None where it cannot."""
    canary = truth.canary
    if canary is None or canary.step >= len(policy.steps):
        return None
    timeout = _span(policy.ack_timeout.seconds)
    times = [member.behind + timeout for member in canary.members.values() if member.behind]
    pause = policy.steps[canary.step].pause
    if canary.held and pause and pause.duration is not None:
        times.append(canary.held + _span(pause.duration.seconds))
    return max(0.0, (min(times) - now).total_seconds()) if times else None


def waits_for_promotion(canary: Canary, policy: Rollout) -> bool:
    """Whether only a person moves the canary on."""
    pause = policy.steps[canary.step].pause if canary.step < len(policy.steps) else None
    return canary.held is not None and pause is not None and pause.duration is None


def _towards(truth: Truth, wanted: Document, policy: Rollout, pods: Sequence[Replica], now: datetime) -> Truth:
    canary, rejected = truth.canary, truth.rejected
    if wanted.hash == truth.stable.hash:
        return _without_canary(truth)
    if canary and canary.document.hash != wanted.hash:
        # Pods of its wave hold a revision above the stable one, and one that is above theirs brings them back.
        before = canary.members
        truth, canary = _without_canary(truth), None
    else:
        before = {}
    if canary is None and rejected and (rejected.hash, rejected.policy) == (wanted.hash, _digest(policy)):
        return replace(truth, rejected=rejected)
    if not policy.steps or (canary is None and not any(pod.reachable for pod in pods)):
        # A pod that is not Ready serves nobody: there is nothing to protect, and nothing to try it on.
        stable = canary.document if canary else _numbered(wanted, truth.highest + 1)
        return replace(truth, stable=stable, canary=None, rejected=None)
    if canary is None:
        canary = Canary(_numbered(wanted, truth.highest + 1), now)
        canary = _joined(canary, policy.steps[0], pods, now, first=before)
        return replace(truth, canary=canary, rejected=None)
    return _stepped(truth, canary, policy, pods, now)


def _stepped(truth: Truth, canary: Canary, policy: Rollout, pods: Sequence[Replica], now: datetime) -> Truth:
    """One look at a canary under way: back, as it is, or on to the next step."""
    if canary.step >= len(policy.steps):
        return replace(truth, stable=canary.document, canary=None)
    canary = _joined(canary, policy.steps[canary.step], pods, now)
    truth = _judged(truth, canary, policy, pods, now)
    if truth.canary is None or truth.canary.held is None:
        return truth
    canary = truth.canary
    if not _pause_is_over(policy, canary, truth.canary.held, now):
        return truth
    if canary.step + 1 == len(policy.steps):
        return replace(truth, stable=canary.document, canary=None)
    canary = replace(canary, step=canary.step + 1, held=None)
    return replace(truth, canary=_joined(canary, policy.steps[canary.step], pods, now))


def _judged(truth: Truth, canary: Canary, policy: Rollout, pods: Sequence[Replica], now: datetime) -> Truth:
    """With `canary` as its pods are now, or without it where they failed."""
    here = [(pod, canary.members[pod.name]) for pod in pods if pod.name in canary.members]
    canary = replace(canary, members={pod.name: _watched(pod, member, canary, now) for pod, member in here})
    here = [(pod, canary.members[pod.name]) for pod, _ in here]
    if failure := _failure(canary, here, policy, now):
        reason, message = failure
        rejected = Rejected(
            revision_of(canary.document), canary.document.hash, _digest(policy), reason, message[:1024], now
        )
        return replace(_without_canary(replace(truth, canary=canary)), rejected=rejected)
    is_behind = not here or any(member.behind for _, member in here)
    return replace(truth, canary=replace(canary, held=None if is_behind else canary.held or now))


def _joined(canary: Canary, step: Step, pods: Sequence[Replica], now: datetime, first: Iterable[str] = ()) -> Canary:
    """With as many pods in the wave as the step wants. Who is in it stays; those in `first` come before others, then
    they come by the hash of their names, so everybody who computes it gets the same."""
    names = {pod.name for pod in pods}
    members = {name: member for name, member in canary.members.items() if name in names}
    outside = [pod for pod in pods if pod.reachable and pod.name not in members]
    preferred = set(first)
    outside.sort(key=lambda pod: (pod.name not in preferred, hashlib.sha256(pod.name.encode()).hexdigest()))
    for pod in outside[: max(0, wave_size(step.percent, len(pods)) - len(members))]:
        members[pod.name] = Member(pod.restarts, pod.requests, pod.errors, behind=now)
    return replace(canary, members=members)


def wave_size(percent: int, pods: int) -> int:
    """Pods in a wave: rounded up, at least one, but below 100 % not all of several."""
    size = -(-percent * pods // 100)
    return min(size, pods - 1) if percent < 100 and pods > 1 else size


def _watched(pod: Replica, member: Member, canary: Canary, now: datetime) -> Member:
    if not (pod.reachable and pod.runs(canary.document)):
        return member if member.behind else replace(member, behind=now)
    if member.behind:
        # What it counted before it ran the document says nothing about the document.
        return Member(member.restarts, pod.requests, pod.errors)
    return member


def _failure(
    canary: Canary, wave: Sequence[tuple[Replica, Member]], policy: Rollout, now: datetime
) -> tuple[str, str] | None:
    """Why the wave failed, as a word and a text."""
    for pod, member in wave:
        if failure := _failure_of(pod, member, canary, policy, now):
            return failure
    if policy.max_error_percent is None:
        return None
    running = [(pod, member) for pod, member in wave if not member.behind]
    requests = sum(pod.requests - member.requests for pod, member in running)
    errors = sum(pod.errors - member.errors for pod, member in running)
    if requests >= JUDGED_REQUESTS and errors * 100 > policy.max_error_percent * requests:
        return "Errors", f"{errors} of {requests} requests to the wave failed; {policy.max_error_percent} % may"
    return None


def _failure_of(pod: Replica, member: Member, canary: Canary, policy: Rollout, now: datetime) -> tuple[str, str] | None:
    timeout = policy.ack_timeout
    if pod.refused == (INVALID_DOCUMENT, canary.document.hash):
        return "Refused", f"{pod.name}: {pod.reason}"
    if pod.restarts > member.restarts:
        return "Restarted", f"{pod.name}: its container was restarted"
    if not member.behind or now - member.behind < _span(timeout.seconds):
        return None
    if not pod.reachable:
        word, text = pod.trouble or ("NotReady", "")
        return "NotReady", f"{pod.name} has not been Ready for {timeout}: " + (f"{word}: {text}" if text else word)
    if pod.reason:
        # Not before this process has tried it itself: the time may have passed while no operator ran.
        return "NotAcknowledged", f"{pod.name} did not run it within {timeout}: {pod.reason}"
    return None


def _pause_is_over(policy: Rollout, canary: Canary, held: datetime, now: datetime) -> bool:
    pause, promote = policy.steps[canary.step].pause, policy.promote
    if pause is None:
        return True
    if promote and promote.revision == canary.document.revision and (promote.step or len(policy.steps)) > canary.step:
        return True
    return pause.duration is not None and now - held >= _span(pause.duration.seconds)


def _without_canary(truth: Truth) -> Truth:
    """Without its canary and anything rejected; the stable document above what the wave was given."""
    if truth.canary is None:
        return replace(truth, rejected=None)
    return replace(truth, stable=_numbered(truth.stable, truth.highest + 1), canary=None, rejected=None)


def _above(truth: Truth, pods: Sequence[Replica], floor: int) -> Truth:
    """With revisions that every pod accepts, whatever somebody else gave it, and that no status is ahead of."""
    members = truth.canary.members if truth.canary else {}
    ahead = [pod for pod in pods if _is_ahead(pod, truth)]
    if not ahead and truth.highest >= floor:
        return truth
    base = max([truth.highest, floor, *(pod.revision or 0 for pod in ahead)])
    if truth.canary and truth.highest >= floor and all(pod.name in members for pod in ahead):
        return replace(truth, canary=replace(truth.canary, document=_numbered(truth.canary.document, base + 1)))
    stable = _numbered(truth.stable, base + 1)
    canary = truth.canary and replace(truth.canary, document=_numbered(truth.canary.document, base + 2))
    return replace(truth, stable=stable, canary=canary)


def _is_ahead(pod: Replica, truth: Truth) -> bool:
    """Whether a pod holds a greater revision than it should, or another document under the same one.

    One that keeps an older document until it is replaced is let alone.
    """
    due = truth.due(pod.name, pod.file)
    if pod.revision is None or due not in (truth.stable, truth.target):
        return False
    holds_another = pod.revision == due.revision and pod.hash != due.hash and pod.refused == (CONFLICT, due.hash)
    return pod.revision > revision_of(due) or holds_another


def _renewed(truth: Truth, config: ServerConfig) -> Truth:
    """With what needs a restart as the spec has it now; new pods start with it."""

    def renewed(document: Document) -> Document:
        live = {name: getattr(document.config, name) for name in LiveConfig.model_fields}
        return Document(config.model_copy(update=live), document.revision, document.hash)

    canary = truth.canary and replace(truth.canary, document=renewed(truth.canary.document))
    return replace(truth, stable=renewed(truth.stable), canary=canary)


def _filed(truth: Truth, before: Truth, strategy: Strategy, pods: Sequence[Replica], *, settled: bool) -> Truth:
    """With each document under the key where its pods look for it."""
    file = file_of(strategy, truth.stable)
    others = {key: document for key, document in {**truth.kept, before.file: before.stable}.items() if key != file}
    used = {pod.file for pod in pods}
    # Until the Deployment has come to rest it may still make pods of older templates.
    recent = sorted(others, key=lambda key: -revision_of(others[key]))[: 0 if settled else _MOST_KEPT]
    return replace(truth, file=file, kept={key: others[key] for key in sorted(others) if key in used or key in recent})


def _numbered(document: Document, revision: int) -> Document:
    return replace(document, revision=revision)


def _digest(policy: Rollout) -> str:
    text = policy.model_dump_json(by_alias=True, exclude={"promote"}, exclude_defaults=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _span(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)
