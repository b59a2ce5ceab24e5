"""Data parallelism: which of a server's engines this process runs, with vLLM's flags.

Source: vLLM 0.33 engine/arg_utils.py and entrypoints/launchers/dp_supervisor.py. vLLM gives ranks ports of their own
only with a mixture of experts, and has servers started for other models; here any model can have them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Annotated, Final

from pydantic import Field

from ghostfleet_simulator.config.base import Flag, Settings, Switch, Whole

MOST_RANKS: Final = 8
"""As many as an InferencePool has ports."""

_Rank = Annotated[Whole, Field(ge=0, le=MOST_RANKS - 1)]


class LocalRanks(Settings):
    """Which data-parallel ranks this process runs, by default all of them. It is about a process of `ghostfleet serve`
    and not about pods, which run all ranks."""

    rank: Annotated[_Rank | None, Flag("data-parallel-rank", "dpn")] = None
    """The one rank that runs here; others are servers of their own (external load balancing)."""

    start_rank: Annotated[_Rank | None, Flag("data-parallel-start-rank", "dpr")] = None
    """The first of the ranks that run here."""

    size: Annotated[Whole | None, Field(ge=1, le=MOST_RANKS), Flag("data-parallel-size-local", "dpl")] = None
    """How many ranks run here."""

    hybrid_lb: Annotated[Switch, Flag("data-parallel-hybrid-lb", "dph")] = False
    """Some ranks run here, behind one port, and others in servers of their own (hybrid load balancing)."""

    external_lb: Annotated[Switch, Flag("data-parallel-external-lb", "dpe")] = False
    """One rank runs here; implied by `rank`."""

    def of(self, size: int, *, port_per_rank: bool) -> range:
        """The ranks of `size` that run here."""
        start = self.start_rank or 0
        if self.rank is not None:
            return range(self.rank, self.rank + 1)
        if self.size is not None and (port_per_rank or self.hybrid_lb or self.start_rank is not None):
            return range(start, start + self.size)
        # vLLM's one port reaches the ranks of other nodes as well; they are simulated here, too.
        return range(start, size)

    def problems(self, size: int, *, port_per_rank: bool) -> Iterator[tuple[str, str]]:
        """Fields that do not go together, and what is wrong with each."""
        external = self.external_lb or self.rank is not None
        hybrid = self.hybrid_lb or (self.start_rank is not None and not port_per_rank)
        if external + hybrid + port_per_rank > 1:
            yield (
                "localRanks",
                "rank (or externalLb), startRank (or hybridLb) and dataParallelPortPerRank do not go together",
            )
        elif external and size == 1:
            yield "localRanks.rank", "needs dataParallelSize above 1"
        elif external and self.rank is None:
            yield "localRanks.externalLb", "needs rank: which one runs here"
        elif external and self.size not in (1, None):
            yield "localRanks.size", f"{self.size} is not 1, which is what runs here with rank"
        elif hybrid and self.size is None:
            yield f"localRanks.{'hybridLb' if self.hybrid_lb else 'startRank'}", "needs size: how many ranks run here"
        elif self.size is not None and self.size > size:
            yield "localRanks.size", f"{self.size} is above dataParallelSize={size}"
        elif (last := self.of(size, port_per_rank=port_per_rank)[-1]) >= size:
            field = "rank" if external else "startRank"
            yield f"localRanks.{field}", f"there is no rank {last}: dataParallelSize is {size}"


def seed_of(seed: int, rank: int) -> int:
    """The seed of what is random in one rank: that of the server in rank 0, in each other one another."""
    if rank == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed}/rank {rank}".encode()).digest()[:7], "big")
