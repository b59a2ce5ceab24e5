"""Whatever happens to any one call of a full life, the life goes on as if nothing had.

A case is a life whose k-th call meets a fault; calls are counted as they come, so where passes run at the same time the
k-th need not be the same one in two runs. `make test` runs a sample, `make soak` every k with every fault.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from tests.apiserver.faults.life import Life
from tests.apiserver.faults.operators import SupervisedOperator
from tests.apiserver.faults.proxy import Call, Fault
from tests.apiserver.hollow import Hollow

pytestmark = pytest.mark.soak
SOAK = os.environ.get("GHOSTFLEET_SOAK") == "1"

CALLS = 70
"""More calls than a life has; cases beyond the last one are counted as not reached."""
START_CALLS = 32
"""Likewise of a process that starts."""

WITHIN = 100.0
FLAGS = ("--resync-seconds", "2", "--observe-seconds", "1")


@dataclass
class Case:
    """One life, and the fault of its `at`-th call (the first is 1)."""

    at: int
    fault: Fault
    seen: int = 0
    hit: Call | None = None

    def __str__(self) -> str:
        return f"call {self.at}, {self.fault} ({self.hit or 'not reached'})"

    def meets(self, call: Call) -> Fault | None:
        """The fault, if this is the call."""
        self.seen += 1
        if self.seen == self.at:
            self.hit = call
            return self.fault
        return None


class Director:
    """Gives each call to the life that it is about."""

    def __init__(self) -> None:
        self.cases: dict[str, Case] = {}

    def __call__(self, call: Call) -> Fault | None:
        for name, case in list(self.cases.items()):
            if call.is_about(name):
                return case.meets(call)
        return None


_NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def operators(hollow: Hollow, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[SupervisedOperator]]:
    """Three operators, each with a namespace of its own, in which it has looked after a server from birth to death."""
    with ExitStack() as stack:
        made = [
            stack.enter_context(SupervisedOperator(hollow, tmp_path_factory.mktemp("op"), space, *FLAGS).running())
            for space in map(_namespace, [hollow] * 3)
        ]
        # Programs that have just started take long for the first pod; no case shall wait for that.
        with ThreadPoolExecutor(len(made)) as pool:
            list(pool.map(lambda operator: warmed_up(hollow, operator), made))
        yield made


def warmed_up(hollow: Hollow, operator: SupervisedOperator) -> None:
    life = Life(hollow.cluster, operator.namespace, "warm", within=2 * WITHIN)
    life.begin()
    life.end()


def _namespace(hollow: Hollow) -> str:
    name = f"life-{next(_NUMBERS)}"
    hollow.cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    return name


def cases(faults: Iterable[Fault], calls: int, sample: int) -> list[Case]:
    """Every call with every fault, or the same sample of them each time."""
    whole = [Case(at, fault) for fault in faults for at in range(1, calls + 1)]
    return whole if SOAK else random.Random(7).sample(whole, sample)


def each(*faults: Fault) -> pytest.MarkDecorator:
    """A test for each fault in a soak, so that parts of the matrix can be run; one for all where it is a sample."""
    groups = [[fault] for fault in faults] if SOAK else [list(faults)]
    return pytest.mark.parametrize("faults", groups, ids=lambda group: "-".join(fault.name.lower() for fault in group))


def tell(found: list[Case], troubles: list[str]) -> None:
    reached = [case for case in found if case.hit]
    kinds = {str(case.fault) for case in reached}
    print(  # noqa: T201 - the number of cases is a result
        f"\n{len(reached)} calls met a fault ({', '.join(sorted(kinds))}), {len(found) - len(reached)} were not reached"
    )
    assert not troubles, "\n".join([f"{len(troubles)} of {len(reached)} cases:", *troubles])
    assert len(reached) > len(found) / 3


def lives(hollow: Hollow, operator: SupervisedOperator, wanted: list[Case], at_once: int) -> list[str]:
    """Live every case with one operator; what went wrong."""
    director = operator.proxy.plan = Director()

    def one(case: Case) -> str | None:
        name = f"l{next(_NUMBERS):04}"
        director.cases[name] = case
        try:
            Life(hollow.cluster, operator.namespace, name, within=WITHIN).live()
        except AssertionError as error:
            return f"{case}: {error}"
        finally:
            del director.cases[name]
        return None

    with ThreadPoolExecutor(at_once) as pool:
        return [trouble for trouble in pool.map(one, wanted) if trouble]


@each(Fault.CONFLICT, Fault.THROTTLED, Fault.ERROR, Fault.CUT_BEFORE, Fault.CUT_AFTER)
def test_a_call_that_fails_or_is_cut_off(
    hollow: Hollow, operators: list[SupervisedOperator], faults: list[Fault]
) -> None:
    """409, 429, 500, a connection cut before or after the call had its effect: lives go on side by side."""
    found = cases(faults, CALLS, 12)
    tell(found, lives(hollow, operators[0], found, at_once=8))


@pytest.mark.skipif(not SOAK, reason="each case waits for half a minute; make soak runs them")
def test_a_call_without_an_answer(hollow: Hollow, operators: list[SupervisedOperator]) -> None:
    """The call had its effect, and the operator waits in vain."""
    found = cases([Fault.TIMEOUT], CALLS, 0)
    tell(found, lives(hollow, operators[0], found, at_once=12))


@each(Fault.KILL_BEFORE, Fault.KILL_AFTER)
def test_the_operator_is_killed_at_a_call(
    hollow: Hollow, operators: list[SupervisedOperator], faults: list[Fault]
) -> None:
    """Right before and right after it: what is remembered is lost, and nothing else."""
    found = cases(faults, CALLS, 3)
    shares = [found[number :: len(operators)] for number in range(len(operators))]
    with ThreadPoolExecutor(len(operators)) as pool:
        troubles = pool.map(
            lambda pair: lives(hollow, pair[0], pair[1], at_once=1), zip(operators, shares, strict=True)
        )
        tell(found, [trouble for some in troubles for trouble in some])


@each(*(fault for fault in Fault if fault is not Fault.TIMEOUT))
def test_a_call_of_the_start(hollow: Hollow, operators: list[SupervisedOperator], faults: list[Fault]) -> None:
    """Whatever goes wrong while a process starts: what was there before is found, and what comes is looked after."""
    found = cases(faults, START_CALLS, 3)
    shares = [found[number :: len(operators)] for number in range(len(operators))]

    def some(operator: SupervisedOperator, wanted: list[Case]) -> list[str]:
        return [trouble for case in wanted if (trouble := started(hollow, operator, case))]

    with ThreadPoolExecutor(len(operators)) as pool:
        troubles = pool.map(some, operators, shares)
        tell(found, [trouble for few in troubles for trouble in few])


def started(hollow: Hollow, operator: SupervisedOperator, case: Case) -> str | None:
    """Kill the operator; the case's call of the next one meets the fault. What went wrong."""
    operator.proxy.plan = lambda _call: None
    life = Life(hollow.cluster, operator.namespace, f"l{next(_NUMBERS):04}", within=WITHIN)
    try:
        life.begin()
        operator.kill()
        operator.proxy.plan = case.meets
        life.change_profile()
        life.end()
    except AssertionError as error:
        return f"{case}: {error}"
    return None
