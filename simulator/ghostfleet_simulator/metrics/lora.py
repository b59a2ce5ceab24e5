"""What vLLM 0.33 measures of LoRA adapters (v1/metrics/loggers.py and stats.py): there as soon as they are enabled."""

from __future__ import annotations

from ghostfleet_simulator.engine.sequence import Sequence, Status
from ghostfleet_simulator.engine.step import Step
from ghostfleet_simulator.metrics.families import Family, Kind, Time, scalars

LORA_REQUESTS_INFO = Family(
    "vllm:lora_requests_info",
    Kind.GAUGE,
    "Running stats on lora requests.",
    "With every step of the engine: the Unix time, in the series of the adapters there are then; older series stay, so "
    "the one with the greatest value holds. An adapter is in both lists from the first token of one of its requests "
    "until the last of them ends, as vLLM has it. Only with `lora` in use.",
    ("max_lora", "waiting_lora_adapters", "running_lora_adapters"),
)


class LoraRequests:
    """The adapters of a server's sequences that have begun to speak, whatever their engine.

    vLLM hears that a sequence was queued and admitted with its first token, and lists an adapter that it knows under
    the running and the waiting, however many sequences of either it has.
    """

    def __init__(self, now: Time) -> None:
        self.max_loras = 1
        self.on = False
        """There can be adapters."""
        self.series = scalars(LORA_REQUESTS_INFO, now)
        self._now = now
        self._speaking: dict[str, set[Sequence]] = {}
        """By adapter, in the order in which they came."""
        self._written = ""

    def on_step(self, step: Step, *, idle: bool) -> None:
        """A pass was made; `idle` if there was nothing to do in it, which is no step."""
        for seq in step.first:
            if seq.lora is not None and seq.status is not Status.FINISHED:
                self._speaking.setdefault(seq.lora.name, set()).add(seq)
        for seq in step.finished:
            self.forget(seq)
        names = ",".join(self._speaking)
        if idle and names == self._written:
            return
        self._written = names
        self.series.cell(str(self.max_loras), names, names).value = self._now()

    def forget(self, seq: Sequence) -> None:
        """A sequence has ended; known is what becomes of it with the next step."""
        speaking = self._speaking.get(seq.lora.name) if seq.lora is not None else None
        if seq.lora is not None and speaking is not None:
            speaking.discard(seq)
            if not speaking:
                del self._speaking[seq.lora.name]
