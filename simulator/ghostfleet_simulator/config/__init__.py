"""Every setting a server has: the one source of flags, configuration files, the admin API and the CRD schema.

Names are camelCase in files, custom resources and the admin API and kebab-case as flags. A field that carries `Flag`
can be set on the command line; a top-level block that carries `Live` takes effect at once, every other one at the next
start. Flags are vLLM's where vLLM 0.33 has one, else llm-d-inference-sim's.
"""

from __future__ import annotations

from ghostfleet_simulator.config.api import Api
from ghostfleet_simulator.config.base import GREATEST_PORT, Flag, Live, Name, Port, Settings, Switch, Whole, problem
from ghostfleet_simulator.config.behaviour import (
    AnswerLength,
    AnswerMode,
    Answers,
    LengthBucket,
    LengthDistribution,
)
from ghostfleet_simulator.config.clock import ClockSettings
from ghostfleet_simulator.config.engine import (
    VLLM_VERSION,
    BatchLimits,
    Dialect,
    Engine,
    HashAlgorithm,
    KVCache,
    KVTier,
    ModelSettings,
    Scheduling,
    SchedulingPolicy,
    TierMedium,
)
from ghostfleet_simulator.config.failures import (
    AT_REQUESTS,
    BY_RATE,
    ERRORS,
    EVENT_FAILURES,
    GENERATING,
    TRANSFER_FAILURES,
    TYPED_ERRORS,
    Ending,
    Endpoint,
    Failure,
    Failures,
    FailureType,
    HeaderMatch,
    Match,
    equal_shares,
)
from ghostfleet_simulator.config.fake_metrics import METRIC_PREFIXES, Course, Selector, parse_selector, parse_value
from ghostfleet_simulator.config.http import Http
from ghostfleet_simulator.config.kv_events import EventPublisher, KVEvents, binds, tcp_port
from ghostfleet_simulator.config.lifecycle import Lifecycle
from ghostfleet_simulator.config.lora import Lora, LoraAdapter, LoraTiming, check_adapter_names
from ghostfleet_simulator.config.profile import ApiTiming, Backend, Evidence, Noise, Profile
from ghostfleet_simulator.config.ranks import MOST_RANKS, LocalRanks, seed_of
from ghostfleet_simulator.config.roofline import CachePrecision, Geometry, Hardware, Precision, RooflineTiming
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
from ghostfleet_simulator.config.timing import (
    Extrapolation,
    LatencyCalculator,
    SimpleTiming,
    StepTimeTiming,
    TableTiming,
)
from ghostfleet_simulator.config.transfer import PEERS, KVConnector, KVRole, KVTransfer, LoadFailurePolicy

__all__ = [
    "AT_REQUESTS",
    "BY_RATE",
    "ERRORS",
    "EVENT_FAILURES",
    "GENERATING",
    "GREATEST_PORT",
    "LIVE_FIELDS",
    "METRIC_PREFIXES",
    "MOST_RANKS",
    "PEERS",
    "TRANSFER_FAILURES",
    "TYPED_ERRORS",
    "VLLM_VERSION",
    "AnswerLength",
    "AnswerMode",
    "Answers",
    "Api",
    "ApiTiming",
    "Backend",
    "BatchLimits",
    "Behaviour",
    "CachePrecision",
    "ClockSettings",
    "Course",
    "Dialect",
    "Ending",
    "Endpoint",
    "Engine",
    "EventPublisher",
    "Evidence",
    "Extrapolation",
    "Failure",
    "FailureType",
    "Failures",
    "FixedConfig",
    "Flag",
    "Geometry",
    "Hardware",
    "HashAlgorithm",
    "HeaderMatch",
    "Http",
    "KVCache",
    "KVConnector",
    "KVEvents",
    "KVRole",
    "KVTier",
    "KVTransfer",
    "LatencyCalculator",
    "LengthBucket",
    "LengthDistribution",
    "Lifecycle",
    "Listen",
    "Live",
    "LiveConfig",
    "LoadFailurePolicy",
    "LocalRanks",
    "LogFormat",
    "LogLevel",
    "Lora",
    "LoraAdapter",
    "LoraTiming",
    "Match",
    "ModelSettings",
    "Name",
    "Noise",
    "Port",
    "Precision",
    "Profile",
    "RooflineTiming",
    "Scheduling",
    "SchedulingPolicy",
    "Selector",
    "ServerConfig",
    "Settings",
    "SimpleTiming",
    "StepTimeTiming",
    "Switch",
    "TableTiming",
    "TierMedium",
    "Whole",
    "binds",
    "check_adapter_names",
    "equal_shares",
    "parse_selector",
    "parse_value",
    "problem",
    "seed_of",
    "tcp_port",
]
