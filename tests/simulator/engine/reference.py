"""The scheduler's rules once more, naively: lists searched from end to end, contents compared token by token.

There is no hash, no counter of room and no index in it. What it says is meant to be checked by reading; the scheduler
is checked against it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Content = tuple[str | None, str | None, tuple[int, ...]]
"""Adapter, salt and all tokens from the first one to the end of a block."""


@dataclass(frozen=True)
class Rules:
    """The settings."""

    blocks: int
    block_size: int
    max_num_seqs: int
    budget: int
    by_priority: bool
    chunked: bool
    threshold: int
    adaptive: bool
    reserve: bool
    watermark: int
    caching: bool
    unhashed_first: bool
    max_loras: int


@dataclass
class Request:
    """A sequence, with its answer known in advance."""

    name: str
    prompt: list[int]
    answer: list[int]
    priority: int
    arrival: int
    salt: str | None
    reads_cache: bool
    lora: str | None = None
    said: int = 0
    computed: int = 0
    blocks: list[int] = field(default_factory=list)
    reused: int = 0
    preemptions: int = 0
    decoding: bool = False
    """All that there was to compute when it was admitted is computed."""

    @property
    def tokens(self) -> list[int]:
        return self.prompt + self.answer[: self.said]


@dataclass
class Outcome:
    """What a pass brought."""

    ended: list[str] = field(default_factory=list)
    preempted: list[str] = field(default_factory=list)
    complete: list[str] = field(default_factory=list)
    admitted: list[tuple[str, int]] = field(default_factory=list)
    """Name and tokens found in the cache."""
    parts: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Tokens computed before, and in this pass, of each prompt that was worked on."""


class Reference:
    """The same as `Scheduler`, without any thought of cost."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.free = list(range(1, rules.blocks))
        self.contents: dict[int, Content] = {}
        """What can be found, the oldest first."""
        self.running: list[Request] = []
        self.waiting: list[Request] = []
        self.passed_over: set[str] = set()
        """Names of those that ever were, of the waiting ones."""
        self.queried = 0
        self.hit = 0

    # --- what is asked of it ---------------------------------------------------------------------

    def add(self, request: Request) -> None:
        self.waiting.append(request)
        self._sort()

    def abort(self, name: str) -> None:
        for request in self.running:
            if request.name == name:
                self._release(request)
                return
        self.waiting = [request for request in self.waiting if request.name != name]
        self.passed_over.discard(name)

    def reset(self, with_running: bool) -> bool:
        if with_running:
            while self.running:
                self._preempt(self.running[-1])
        if any(request.blocks for request in self.running):
            return False
        self.contents.clear()
        return True

    def step(self, speaking: list[str]) -> Outcome:
        """One pass in which these decoding sequences get a token."""
        outcome = Outcome()
        self._speak(speaking, outcome)
        longest = self._longest_part()
        budget = self._go_on_with_prompts(self.rules.budget - len(speaking), longest, outcome)
        if not outcome.preempted:
            self._admit(budget, longest, outcome)
        return outcome

    # --- how it does it --------------------------------------------------------------------------

    def _speak(self, speaking: list[str], outcome: Outcome) -> None:
        # Each token that comes out was made from one more computed token, unless it is the first one of a prefill.
        for request in [r for r in self.running if r.name in speaking]:
            request.computed = len(request.tokens)
            request.said += 1
            self._find_from_now_on(request, request.computed)
        for request in list(self.running):
            if request.name in speaking and request.said == len(request.answer):
                self._release(request)
                outcome.ended.append(request.name)
        for request in list(self.running):
            if request in self.running and request.name in speaking:
                outcome.preempted += self._allocate(request, len(request.tokens))

    def _longest_part(self) -> int:
        rules, number = self.rules, len(self.running) + len(self.waiting)
        if rules.threshold == 0 or number == 1:
            return rules.budget
        return max(rules.threshold, rules.budget // max(1, number)) if rules.adaptive else rules.threshold

    def _go_on_with_prompts(self, budget: int, longest: int, outcome: Outcome) -> int:
        for request in list(self.running):
            left = len(request.tokens) - request.computed
            if budget <= 0 or request not in self.running or request.decoding:
                continue
            part = min(left, longest, budget)
            victims = self._allocate(request, request.computed + part)
            for victim in victims:
                budget += outcome.parts.pop(victim, (0, 0))[1]
            outcome.preempted += victims
            if request in self.running:
                budget -= part
                self._compute(request, part, outcome)
        outcome.complete = [r.name for r in self.running if r.name in outcome.parts and r.computed == len(r.tokens)]
        return budget

    def _admit(self, budget: int, longest: int, outcome: Outcome) -> None:
        rules = self.rules
        for request in list(self.waiting):
            if budget <= 0 or len(self.running) >= rules.max_num_seqs:
                break
            others = {other.lora for other in self.running if other.lora not in (None, request.lora)}
            alone = not any(other.lora == request.lora for other in self.running)
            if request.lora and alone and len(others) >= rules.max_loras:
                self.passed_over.add(request.name)
                continue
            found = self._look_up(request)
            reused = len(found) * rules.block_size
            part = min(len(request.tokens) - reused, longest)
            if part > budget and not rules.chunked:
                break
            part = min(part, budget)
            for_now = self._blocks(reused + part) - len(found)
            in_the_end = self._blocks(len(request.tokens)) - len(found)
            needed = (in_the_end if rules.reserve else for_now) + sum(block in self.free for block in found)
            if needed + (rules.watermark if self.running else 0) > len(self.free):
                break
            self.waiting.remove(request)
            self.passed_over.discard(request.name)
            self.free = [block for block in self.free if block not in found]
            request.blocks = found + self._take(for_now)
            request.computed = request.reused = reused
            if rules.caching and request.reads_cache and not request.preemptions:
                self.queried += len(request.tokens)
                self.hit += reused
            self.running.append(request)
            budget -= part
            self._compute(request, part, outcome)
            outcome.admitted.append((request.name, reused))

    def _blocks(self, tokens: int) -> int:
        return (tokens + self.rules.block_size - 1) // self.rules.block_size

    def _sort(self) -> None:
        if self.rules.by_priority:
            self.waiting.sort(key=lambda request: (request.priority, request.arrival, request.name))

    def _compute(self, request: Request, part: int, outcome: Outcome) -> None:
        outcome.parts[request.name] = (request.computed, part)
        request.computed += part
        request.decoding = request.computed == len(request.tokens)
        self._find_from_now_on(request, request.computed)

    def _content(self, request: Request, index: int) -> Content:
        return request.lora, request.salt, tuple(request.tokens[: (index + 1) * self.rules.block_size])

    def _find_from_now_on(self, request: Request, tokens: int) -> None:
        if self.rules.caching:
            for index in range(tokens // self.rules.block_size):
                if request.blocks[index] not in self.contents:
                    self.contents[request.blocks[index]] = self._content(request, index)

    def _look_up(self, request: Request) -> list[int]:
        found: list[int] = []
        if request.reads_cache:
            for index in range((len(request.tokens) - 1) // self.rules.block_size):
                wanted = self._content(request, index)
                matching = [block for block, content in self.contents.items() if content == wanted]
                if not matching:
                    break
                found.append(matching[0])
        return found

    def _take(self, count: int) -> list[int]:
        taken, self.free = self.free[:count], self.free[count:]
        for block in taken:
            self.contents.pop(block, None)
        return taken

    def _allocate(self, request: Request, tokens: int) -> list[str]:
        """Blocks for the first tokens of a running sequence; the names of those preempted for it."""
        preempted: list[str] = []
        while request in self.running and self._blocks(tokens) - len(request.blocks) > len(self.free):
            if self.rules.by_priority:
                victim = max(reversed(self.running), key=lambda r: (r.priority, r.arrival))
            else:
                victim = self.running[-1]
            self._preempt(victim)
            preempted.append(victim.name)
        if request in self.running:
            request.blocks += self._take(max(0, self._blocks(tokens) - len(request.blocks)))
        return preempted

    def _preempt(self, request: Request) -> None:
        self._release(request)
        request.computed, request.decoding = 0, False
        request.preemptions += 1
        self.waiting.insert(0, request)
        self._sort()

    def _release(self, request: Request) -> None:
        self.running.remove(request)
        still_used = [block for other in self.running for block in other.blocks]
        freed = [block for block in reversed(request.blocks) if block not in still_used]
        first = [block for block in freed if block not in self.contents and self.rules.unhashed_first]
        self.free = first + self.free + [block for block in freed if block not in first]
        request.blocks = []
