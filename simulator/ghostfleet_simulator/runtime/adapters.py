"""The LoRA adapters that a server serves by name: the configured ones, and those that are loaded while it runs.

Source: vLLM 0.33 entrypoints/openai/models/serving.py, `OpenAIServingModels`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol
from weakref import WeakValueDictionary

from ghostfleet_simulator.config import Lora, LoraAdapter
from ghostfleet_simulator.engine.adapters import Adapter, Place

_log = logging.getLogger("ghostfleet.adapters")


class AdapterError(Exception):
    """An adapter cannot be loaded or unloaded; `status` is the HTTP status and `type` vLLM's word for what it is."""

    def __init__(self, status: int, type_: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.type = type_


@dataclass(frozen=True, slots=True)
class ServedAdapter:
    """An adapter, and the model that it says it belongs to."""

    adapter: Adapter
    parent: str


class AdapterNames:
    """The adapters by name. `by_name` is replaced and never changed, so that threads and pickling may go over it."""

    __slots__ = ("by_name",)

    def __init__(self) -> None:
        self.by_name: Mapping[str, ServedAdapter] = {}

    def get(self, name: str | None) -> Adapter | None:
        """The adapter of that name."""
        found = self.by_name.get(name) if name else None
        return found.adapter if found else None


class AdapterEngine(Protocol):
    """What loads adapters."""

    def use_lora(self, lora: Lora) -> None:
        """Take over how many there can be."""

    def load_adapter(self, adapter: Adapter, *, anew: bool) -> int:
        """Load an adapter; after how many microseconds of its clock it is there."""

    def place_adapter(self, adapter: Adapter) -> None:
        """Have an adapter loaded without any time passing."""

    def adapter_place(self, adapter: Adapter) -> Place:
        """Where an adapter lies."""


class AdapterRegistry:
    """The adapters of one server.

    Configured ones come and go with the configuration: where it changes, and only there. What was loaded at runtime
    stays until it is unloaded, or until there are no adapters at all any more.
    """

    def __init__(self, aliases: tuple[str, ...], engine: AdapterEngine, compression: float = 1.0) -> None:
        """`aliases` are the names of the base model; `compression` is how much faster than real time the engine is."""
        self._aliases = aliases
        self._engine = engine
        self._us_per_second = 1e6 * compression
        self._lora = Lora()
        self._begun = False
        self._ids = count(1)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """Of names that something is being done with: of two such wishes one comes after the other."""
        self.names = AdapterNames()
        """What can be asked for."""

    def use(self, lora: Lora) -> None:
        """Take over a configuration. The adapters of the first one are loaded before the server serves."""
        before, self._lora = self._lora, lora
        self._engine.use_lora(lora)
        known, wanted = ({adapter.name: adapter for adapter in one.adapters} for one in (before, lora))
        for name in known if lora.on else self.names.by_name:
            if name not in wanted:
                self._forget(name)
        for name, configured in wanted.items():
            if known.get(name) == configured:
                continue
            served = self.names.get(name)
            adapter = self._made(name, configured.path or name, configured.rank, served.id if served else None)
            if self._begun:
                self._engine.load_adapter(adapter, anew=served is not None)
            else:
                self._engine.place_adapter(adapter)
            self._remember(adapter, configured)
        self._begun = True

    async def load(self, name: str, path: str, *, in_place: bool) -> None:
        """Load an adapter at runtime; returns when it is there. Raises `AdapterError`."""
        async with self._locks.setdefault(name, asyncio.Lock()):
            self._check_load(name, path, in_place=in_place)
            if not self._lora.on:
                message = "Call to add_lora method failed: LoRA is not enabled. Use --enable-lora to enable LoRA."
                raise AdapterError(500, "InternalServerError", message)
            served = self.names.get(name)
            adapter = self._made(name, path, None, served.id if served else None)
            await asyncio.sleep(self._engine.load_adapter(adapter, anew=in_place) / self._us_per_second)
            if served is not None and served.path == path:
                _log.warning(
                    "Reloaded LoRA adapter '%s' in place from the same path '%s'. Prefix-cache blocks computed with "
                    "its previous weights are not invalidated; load changed weights from a new path to avoid reusing "
                    "them.",
                    name,
                    path,
                )
            self._remember(adapter)
            _log.info("Loaded new LoRA adapter: name '%s', path '%s'", name, path)

    async def unload(self, name: str) -> None:
        """Unload an adapter; requests for it that are under way go on. Raises `AdapterError`."""
        async with self._locks.setdefault(name, asyncio.Lock()):
            if not name:
                message = "'lora_name' needs to be provided to unload a LoRA adapter."
                raise AdapterError(400, "InvalidUserInput", message)
            if name not in self.names.by_name:
                raise AdapterError(404, "NotFoundError", f"The lora adapter '{name}' cannot be found.")
            self._forget(name)
            _log.info("Removed LoRA adapter: name '%s'", name)

    def told(self) -> list[dict[str, Any]]:
        """The adapters as the admin API tells them."""
        return [
            {
                "name": served.adapter.name,
                "id": served.adapter.id,
                "path": served.adapter.path,
                "rank": served.adapter.rank,
                "parent": served.parent,
                "place": self._engine.adapter_place(served.adapter).value,
            }
            for served in self.names.by_name.values()
        ]

    def _check_load(self, name: str, path: str, *, in_place: bool) -> None:
        if not name or not path:
            raise AdapterError(400, "InvalidUserInput", "Both 'lora_name' and 'lora_path' must be provided.")
        if name in self._aliases:
            message = f"The lora adapter '{name}' conflicts with a served base model."
            raise AdapterError(400, "InvalidUserInput", message)
        if not in_place and name in self.names.by_name:
            raise AdapterError(
                400,
                "InvalidUserInput",
                f"The lora adapter '{name}' has already been loaded. If you want to load the adapter in place, set "
                "'load_inplace' to True.",
            )

    def _made(self, name: str, path: str, rank: int | None, replaced: int | None) -> Adapter:
        return Adapter(next(self._ids) if replaced is None else replaced, name, path, rank or self._lora.max_lora_rank)

    def _remember(self, adapter: Adapter, configured: LoraAdapter | None = None) -> None:
        parent = configured.base_model_name if configured else None
        served = ServedAdapter(adapter, parent if parent in self._aliases else self._aliases[0])
        self.names.by_name = {**self.names.by_name, adapter.name: served}

    def _forget(self, name: str) -> None:
        self.names.by_name = {other: served for other, served in self.names.by_name.items() if other != name}
