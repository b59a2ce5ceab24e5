"""LoRA adapters: which there are, how many run and are kept at a time, and what they cost."""

from __future__ import annotations

from typing import Annotated, Final, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from ghostfleet_simulator.config.base import Flag, Name, Settings, Switch, Whole, distinct, problem
from ghostfleet_simulator.units import Duration, Factor

_RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM 0.33 takes for its greatest rank (config/lora.py)."""


def _known_rank(rank: int) -> int:
    if rank not in _RANKS:
        raise PydanticCustomError(
            "settings", "{rank} is not one of {ranks}", {"rank": rank, "ranks": ", ".join(map(str, _RANKS))}
        )
    return rank


class LoraAdapter(Settings):
    """One adapter."""

    name: Name
    """What requests ask for as their `model`. Their answers name it as that, too."""

    path: Annotated[str, StringConstraints(min_length=1, max_length=4096)] | None = None
    """Where its weights would be. Nothing is read there, but it is the `root` in the model list and part of the hashes
    of blocks; if not given, it is the name."""

    base_model_name: Name | None = None
    """Its `parent` in the model list. A name under which the model is not served is ignored for the first one that it
    is served under, and so is none at all."""

    rank: Annotated[Whole, Field(ge=1, le=512)] | None = None
    """Its rank. The time to load the adapter grows with it; at most `maxLoraRank`, which is what is taken for it if it
    is not given."""


class Lora(Settings):
    """LoRA adapters; all of it changes in a running server."""

    enabled: Annotated[Switch | None, Flag("enable-lora")] = None
    """Whether requests can ask for adapters. If not given, they can where there are `adapters`."""

    max_loras: Annotated[Whole, Field(ge=1, le=1024), Flag("max-loras")] = 1
    """Most adapters that run at the same time. A request for a further one waits until one of them has nothing to do,
    and others overtake it."""

    max_cpu_loras: Annotated[Whole | None, Field(ge=1, le=65536), Flag("max-cpu-loras")] = None
    """Most adapters in host memory. Those used last are kept there, and any other is read from disk when it is needed;
    at least `maxLoras`, and that if not given."""

    max_lora_rank: Annotated[Whole, AfterValidator(_known_rank), Field(ge=1, le=512), Flag("max-lora-rank")] = 16
    """Greatest rank. As in vLLM it is 1, 8, 16, 32, 64, 128, 256, 320 or 512, and slots are as large as it, whatever
    the ranks of the adapters in them."""

    adapters: Annotated[tuple[LoraAdapter, ...], Field(max_length=256), Flag("lora-modules")] = ()
    """The adapters. One that is added or taken away here comes or goes in a running server; as a flag each is
    `name=path`, or a JSON object as vLLM takes it."""

    @property
    def on(self) -> bool:
        """Whether requests can ask for adapters."""
        return bool(self.adapters) if self.enabled is None else self.enabled

    @property
    def host_places(self) -> int:
        """Adapters that are kept in host memory."""
        return self.max_cpu_loras or self.max_loras

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.max_cpu_loras is not None and self.max_cpu_loras < self.max_loras:
            raise problem("maxCpuLoras", f"{self.max_cpu_loras} is below maxLoras={self.max_loras}")
        if self.adapters and self.enabled is False:
            raise problem("enabled", "is false, and there are adapters")
        try:
            distinct(tuple(adapter.name for adapter in self.adapters))
        except PydanticCustomError as error:
            raise problem("adapters", error.message()) from None
        for index, adapter in enumerate(self.adapters):
            if (adapter.rank or 0) > self.max_lora_rank:
                raise problem(f"adapters[{index}].rank", f"{adapter.rank} is above maxLoraRank={self.max_lora_rank}")
        return self


def check_adapter_names(lora: Lora, aliases: tuple[str, ...]) -> None:
    """Raises a problem, with the path from the whole configuration, if an adapter is named as the base model is."""
    for index, adapter in enumerate(lora.adapters):
        if adapter.name in aliases:
            raise problem(f"lora.adapters[{index}].name", f"{adapter.name!r} is a served name of the base model")


class LoraTiming(Settings):
    """What adapters cost in time."""

    disk_read: Duration = Duration(0)
    """Time to read an adapter from disk."""

    disk_read_per_rank: Duration = Duration(0)
    """What each rank of it adds."""

    slot_copy: Duration = Duration(0)
    """Time to copy an adapter from host memory into a slot. One that is read from disk takes this besides."""

    slot_copy_per_rank: Duration = Duration(0)
    """What each rank of it adds."""

    step_factor: Factor = Factor.parse(0)
    """Share by which each adapter makes a step longer. It is that of reading weights and computing tokens, with `Table`
    of the whole step, with `Simple` nothing; on a GPU it depends on `maxLoraRank`, by which slots are made."""
