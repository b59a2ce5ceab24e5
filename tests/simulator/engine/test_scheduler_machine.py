"""Whatever happens, the scheduler decides as the naive reference does, down to the order of the free blocks."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.simulator.engine.reference import Reference, Request, Rules

from ghostfleet_simulator.config import ServerConfig
from ghostfleet_simulator.engine.adapters import Adapter
from ghostfleet_simulator.engine.scheduler import Scheduler
from ghostfleet_simulator.engine.sequence import Sequence, Status

LONGEST = 32
FAMILIES = (tuple(range(LONGEST)), (0, 1, 2, 3, *range(50, 50 + LONGEST)), (7,) * LONGEST)
"""Prompts are beginnings of these, and so are answers, so that much is found again."""
ADAPTERS = {name: Adapter(number, name, name, 8) for number, name in enumerate("abc", 1)}


class Answer:
    """Given tokens, ended by length."""

    finish_reason = "length"
    stop_reason = None

    def __init__(self, tokens: list[int]) -> None:
        self._tokens, self.length = tokens, len(tokens)

    def token_ids(self, start: int, stop: int) -> list[int]:
        return self._tokens[start:stop]


@st.composite
def all_rules(draw: st.DrawFn) -> Rules:
    block_size = draw(st.sampled_from([1, 2, 4]))
    chunked = draw(st.booleans())
    blocks = LONGEST // block_size + 1 + draw(st.integers(0, LONGEST // block_size))
    return Rules(
        blocks=blocks,
        block_size=block_size,
        max_num_seqs=draw(st.integers(1, 6)),
        budget=draw(st.integers(8, 40) if chunked else st.integers(LONGEST, 50)),
        by_priority=draw(st.booleans()),
        chunked=chunked,
        threshold=draw(st.sampled_from([0, 0, 1, 3, 8])),
        adaptive=draw(st.booleans()),
        reserve=draw(st.booleans()),
        watermark=int(draw(st.sampled_from([0, 0.25])) * blocks),
        caching=draw(st.sampled_from([True, True, True, False])),
        unhashed_first=draw(st.booleans()),
        max_loras=draw(st.integers(1, 2)),
    )


def scheduler(rules: Rules) -> Scheduler:
    config = ServerConfig.model_validate(
        {
            "model": {"name": "m", "maxModelLen": LONGEST},
            "lora": {"enabled": True, "maxLoras": rules.max_loras},
            "engine": {"version": "0.33" if rules.unhashed_first else "0.22"},
            "kvCache": {
                "blockSize": rules.block_size,
                "blocks": rules.blocks,
                "enablePrefixCaching": rules.caching,
            },
            "scheduling": {
                "maxNumSeqs": rules.max_num_seqs,
                "maxNumBatchedTokens": rules.budget,
                "policy": "Priority" if rules.by_priority else "FCFS",
                "enableChunkedPrefill": rules.chunked,
                "longPrefillTokenThreshold": rules.threshold,
                "longPrefillTokenThresholdAdaptive": rules.adaptive,
                "reserveFullIsl": rules.reserve,
                "watermark": "25%" if rules.watermark else "0",
            },
        }
    )
    made = Scheduler(config, bytes(32))
    made.use_lora(config.lora)
    return made


class Comparison(RuleBasedStateMachine):
    """Arrivals, passes, aborts and resets, in any order."""

    @initialize(rules=all_rules())
    def begin(self, rules: Rules) -> None:
        self.rules = rules
        self.reference = Reference(rules)
        self.scheduler = scheduler(rules)
        self.sequences: dict[str, Sequence] = {}
        self.clock = 0

    @rule(
        family=st.sampled_from(FAMILIES),
        prompt=st.integers(1, LONGEST - 1),
        own=st.integers(0, 4),
        answer=st.integers(1, LONGEST),
        priority=st.integers(-1, 1),
        together=st.booleans(),
        salt=st.sampled_from([None, None, None, "salt"]),
        reads_cache=st.sampled_from([True, True, True, False]),
        lora=st.sampled_from([None, None, *ADAPTERS]),
    )
    def arrive(
        self,
        family: tuple[int, ...],
        prompt: int,
        own: int,
        answer: int,
        priority: int,
        together: bool,
        salt: str | None,
        reads_cache: bool,
        lora: str | None,
    ) -> None:
        """The last tokens of some prompts are their own; some arrive together, and their names run backwards."""
        self.clock += not together
        name = f"{999 - len(self.sequences)}"
        tokens = [*family[: prompt - min(own, prompt)], *[1000 + len(self.sequences)] * min(own, prompt)]
        said = list(family[prompt : prompt + min(answer, LONGEST - prompt)])
        request = Request(name, tokens, said, priority, self.clock, salt, reads_cache, lora)
        seq = Sequence(
            name,
            tokens,
            Answer(said),
            self.clock,
            priority=priority,
            cache_salt=salt,
            reads_prefix_cache=reads_cache,
            lora=ADAPTERS[lora] if lora else None,
        )
        self.sequences[name] = seq
        self.reference.add(request)
        self.scheduler.add(seq, self.clock)

    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        """Any of the decoding sequences may have a token due in a pass, at most a budget of them."""
        decoding = [request.name for request in self.reference.running if request.decoding]
        speaking = [name for name in decoding if data.draw(st.sampled_from([True, True, True, False]))]
        self._step(speaking[: self.rules.budget])

    @precondition(lambda self: bool(self.reference.running or self.reference.waiting))
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        """A client goes away."""
        alive = [request.name for request in (*self.reference.running, *self.reference.waiting)]
        name = data.draw(st.sampled_from(alive))
        self.reference.abort(name)
        self.scheduler.remove(self.sequences[name])

    @rule(with_running=st.sampled_from([False, False, True]))
    def reset(self, with_running: bool) -> None:
        """The prefix cache is dropped."""
        if with_running:
            self.scheduler.preempt_all()
        assert self.scheduler.pool.reset() == self.reference.reset(with_running)

    def _step(self, speaking: list[str]) -> None:
        expected = self.reference.step(speaking)
        it, sequences = self.scheduler, self.sequences
        full = []
        ended = []
        for seq in [seq for seq in it.running if seq.id in speaking]:
            seq.produced += 1
            if seq.produced == seq.target:
                ended.append(seq)
            elif seq.room:
                seq.room -= 1
            else:
                full.append(seq)
        for seq in ended:
            it.remove(seq)
        preempted = it.grow(full[::-1])
        it.chunks.clear()
        budget, complete = it.prefill(self.rules.budget - len(speaking), preempted)
        admitted = it.admit(budget, self.clock)[1] if not preempted else []
        assert [seq.id for seq in ended] == expected.ended
        assert [seq.id for seq in preempted] == expected.preempted
        assert [seq.id for seq in complete] == expected.complete
        assert [(seq.id, seq.reused) for seq in admitted] == expected.admitted
        assert {seq.id: part for seq, part in it.chunks.items()} == expected.parts
        assert all(sequences[name].status is Status.FINISHED for name in expected.ended)

    @invariant()
    def the_books_agree(self) -> None:
        """Who runs, who waits, who has which block, what is free in which order, and what can be found."""
        if not hasattr(self, "reference"):
            return
        it, reference = self.scheduler, self.reference
        assert [seq.id for seq in it.running] == [request.name for request in reference.running]
        assert [seq.id for seq in it.waiting] == [request.name for request in reference.waiting]
        assert {seq.id for seq in it.deferred} == reference.passed_over
        running = {request.lora for request in reference.running if request.lora}
        assert {ADAPTERS[name].id for name in running} == it.adapters.running.keys()
        assert len(running) <= self.rules.max_loras
        assert [seq.id for seq in it.prefilling] == [r.name for r in reference.running if not r.decoding]
        for request in (*reference.running, *reference.waiting):
            seq = self.sequences[request.name]
            assert seq.blocks == request.blocks
            assert (seq.produced, seq.preemptions, seq.num_tokens) == (
                request.said,
                request.preemptions,
                len(request.tokens),
            )
        pool = it.pool
        assert [*reversed(pool._front), *range(pool._fresh, self.rules.blocks), *pool._behind] == reference.free
        assert pool.free == len(reference.free)
        assert set(pool._hash_of) == set(reference.contents)
        assert len(set(pool._hash_of.values())) == len(set(reference.contents.values()))
        assert (it.queried_tokens, it.hit_tokens) == (reference.queried, reference.hit)

    def teardown(self) -> None:
        """Nobody starves: when nothing more arrives, everybody says all there is to say, and all blocks come back.

        Except where vLLM itself goes round in circles: of equals by priority and arrival the one that was admitted
        first is preempted, is admitted with a part of its blocks, and preempts the other one in turn.
        """
        if not hasattr(self, "reference"):
            return
        for _ in range(LONGEST * (len(self.sequences) + 1) * 4):
            if not self.reference.running and not self.reference.waiting:
                break
            speaking = [request.name for request in self.reference.running if request.decoding]
            self._step(speaking[: self.rules.budget])
            self.the_books_agree()
        if self.rules.reserve or not self.rules.by_priority:
            assert not self.scheduler.running
            assert not self.scheduler.waiting
            assert self.scheduler.pool.usage == 0


TestComparison = Comparison.TestCase
TestComparison.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
