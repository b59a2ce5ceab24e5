"""Every setting a server has: the one source of flags, configuration files, the admin API and the CRD schema.

Names are camelCase in files, custom resources and the admin API and kebab-case as flags. A field that carries `Flag`
can be set on the command line; a top-level block that carries `Live` takes effect at once, every other one at the next
start. Flags are vLLM's where vLLM 0.33 has one, else llm-d-inference-sim's.
"""

from __future__ import annotations

from ghostfleet_simulator.config.base import Flag, Live, Name, Port, Settings, Switch, Whole, problem
from ghostfleet_simulator.config.behaviour import AnswerMode, Answers, Failure, Failures, FailureType
from ghostfleet_simulator.config.engine import (
    VLLM_VERSION,
    BatchLimits,
    Engine,
    HashAlgorithm,
    KVCache,
    ModelSettings,
    Scheduling,
    SchedulingPolicy,
)
from ghostfleet_simulator.config.profile import Backend, LatencyCalculator, Profile, SimpleTiming
from ghostfleet_simulator.config.server import (
    LIVE_FIELDS,
    Behaviour,
    FixedConfig,
    Listen,
    LiveConfig,
    LogFormat,
    LogLevel,
    ServerConfig,
)

__all__ = [
    "LIVE_FIELDS",
    "VLLM_VERSION",
    "AnswerMode",
    "Answers",
    "Backend",
    "BatchLimits",
    "Behaviour",
    "Engine",
    "Failure",
    "FailureType",
    "Failures",
    "FixedConfig",
    "Flag",
    "HashAlgorithm",
    "KVCache",
    "LatencyCalculator",
    "Listen",
    "Live",
    "LiveConfig",
    "LogFormat",
    "LogLevel",
    "ModelSettings",
    "Name",
    "Port",
    "Profile",
    "Scheduling",
    "SchedulingPolicy",
    "ServerConfig",
    "Settings",
    "SimpleTiming",
    "Switch",
    "Whole",
    "problem",
]
