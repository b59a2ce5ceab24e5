"""LoRA adapters in the engine: which run, and where each one lies.

Source: vLLM 0.33 v1/core/sched/scheduler.py (`scheduled_loras`) and, of the worker, lora/worker_manager.py
(`LRUCacheWorkerLoRAManager`) and lora/model_manager.py (`LRUCacheLoRAModelManager`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from ghostfleet_simulator.config import Lora, LoraTiming


@dataclass(frozen=True, slots=True)
class Adapter:
    """One adapter, as a sequence holds on to it whatever becomes of its name."""

    id: int
    """From 1 on; another one each time that the name is loaded anew, the same where it is replaced in its place."""
    name: str
    path: str
    rank: int


class Place(StrEnum):
    """The nearest place in which an adapter lies."""

    SLOT = "Slot"
    HOST = "Host"
    DISK = "Disk"


@dataclass(frozen=True, slots=True)
class Load:
    """An adapter that was brought into a slot, and where it came from."""

    adapter: Adapter
    source: Place


class AdapterTimer:
    """What adapters cost in time, by a profile."""

    def __init__(self, timing: LoraTiming) -> None:
        self._disk = timing.disk_read.ns / 1000, timing.disk_read_per_rank.ns / 1000
        self._slot = timing.slot_copy.ns / 1000, timing.slot_copy_per_rank.ns / 1000
        self._step = float(timing.step_factor)

    def load_us(self, loads: Iterable[Load]) -> int:
        """Time of loads, which follow each other, in whole microseconds."""
        total = 0.0
        for load in loads:
            rank = load.adapter.rank
            total += self._slot[0] + self._slot[1] * rank
            if load.source is Place.DISK:
                total += self._disk[0] + self._disk[1] * rank
        return round(total)

    def step_share(self, adapters: Adapters) -> float:
        """Share by which the adapters that run make the computing of a step longer."""
        return self._step * len(adapters.running)


class Adapters:
    """The adapters of running sequences, those in slots, and those in host memory.

    At most `max_loras` run and as many have a slot; where one is missing, the one that was used longest ago gives way.
    What leaves host memory leaves its slot, too. An adapter that runs counts as used in every step.
    """

    def __init__(self) -> None:
        self.running: dict[int, list[Adapter]] = {}
        """For each of those that run, by id, an entry per sequence: the same but for what was replaced in place."""
        self._max_loras = self._host_places = 1
        self._slots: OrderedDict[int, None] = OrderedDict()
        self._host: OrderedDict[int, None] = OrderedDict()
        self._unsettled = False
        """Something has changed since the last step: an adapter may run without a slot, or not be the last one used."""

    def use(self, lora: Lora) -> None:
        """Take over how many there can be; what runs goes on, even if it is more."""
        self._max_loras, self._host_places = lora.max_loras, lora.host_places
        while len(self._host) > self._host_places:
            self._slots.pop(self._host.popitem(last=False)[0], None)
        while len(self._slots) > self._max_loras:
            self._slots.popitem(last=False)
        self._unsettled = True

    def has_room_for(self, adapter: Adapter) -> bool:
        """Whether a sequence of this adapter may run beside those that do."""
        return adapter.id in self.running or len(self.running) < self._max_loras

    def enter(self, adapter: Adapter) -> None:
        """A sequence of this adapter runs."""
        users = self.running.get(adapter.id)
        if users is None:
            users = self.running[adapter.id] = []
            self._unsettled = True
        users.append(adapter)

    def leave(self, adapter: Adapter) -> bool:
        """A sequence of this adapter does not run any more; whether none does now."""
        users = self.running[adapter.id]
        users.remove(adapter)
        if users:
            return False
        del self.running[adapter.id]
        self._unsettled = True
        return True

    def settle(self) -> list[Load]:
        """Bring every adapter that runs into a slot, as each step of vLLM's does; what had to be loaded for that."""
        if not self._unsettled or len(self.running) > self._max_loras:  # slots were taken away under them
            return []
        loads = [load for users in self.running.values() if (load := self.load(users[-1])) is not None]
        self._unsettled = False
        return loads

    def load(self, adapter: Adapter, *, anew: bool = False) -> Load | None:
        """Bring an adapter into a slot, with `anew` from disk in any case; what was done, None if it was there."""
        source = Place.DISK if anew else self.place(adapter)
        if source is Place.DISK:
            self._slots.pop(adapter.id, None)
            self._host.pop(adapter.id, None)
            if len(self._host) >= self._host_places:
                self._slots.pop(self._host.popitem(last=False)[0], None)
        self._host[adapter.id] = None
        self._host.move_to_end(adapter.id)
        if adapter.id not in self._slots and len(self._slots) >= self._max_loras:
            self._slots.popitem(last=False)
        self._slots[adapter.id] = None
        self._slots.move_to_end(adapter.id)
        self._unsettled = True
        return None if source is Place.SLOT else Load(adapter, source)

    def place(self, adapter: Adapter) -> Place:
        """Where an adapter lies."""
        if adapter.id in self._slots:
            return Place.SLOT
        return Place.HOST if adapter.id in self._host else Place.DISK
