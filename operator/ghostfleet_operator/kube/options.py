"""What the operator process can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ghostfleet_operator.kube.election import LeaseTimes
from ghostfleet_simulator.config import LogFormat, LogLevel


@dataclass(frozen=True, slots=True)
class OperatorOptions:
    """Settings of one operator process; `ghostfleet operator` has a flag for each."""

    simulator_image: str
    """Image of the simulator pods, where a server does not name its own."""

    key_file: Path
    """File with the keys that admin tokens are derived from, one of 16 bytes or more a line, the newest first."""

    namespaces: tuple[str, ...] = ()
    """Namespaces to work in; none means all of them."""

    cluster_profiles: bool = False
    """Whether servers may refer to ClusterLatencyProfiles; only without `namespaces`."""

    inference_pools: bool = False
    """Whether servers may have InferencePools."""

    kubeconfig: str | None = None
    """Kubeconfig to use; without it what kubectl would use, or the service account of the pod."""

    context: str | None = None
    """Context of the kubeconfig."""

    image_pull_policy: str | None = None
    """Pull policy of the simulator image, where a server does not say."""

    image_pull_secrets: tuple[str, ...] = ()
    """Names of pull secrets that every simulator pod gets."""

    health_host: str = "0.0.0.0"  # noqa: S104  (the kubelet and Prometheus come from outside the pod)
    """Address of `/healthz`, `/readyz` and `/metrics`."""

    health_port: int = 8080
    """Port of `/healthz`, `/readyz` and `/metrics`."""

    log_level: LogLevel = LogLevel.INFO
    """Least severity that is logged."""

    log_format: LogFormat = LogFormat.TEXT
    """How log lines look."""

    workers: int = 16
    """Servers that are worked on at the same time."""

    writes_per_second: float = 200.0
    """Writes to the API server per second in the long run."""

    write_burst: int = 400
    """Writes to the API server at once."""

    observe_seconds: float = 30.0
    """How often a server's pods are asked what they run."""

    resync_seconds: float = 300.0
    """How often a server is compared with the API itself, whatever the watches said."""

    watch_silent_seconds: float = 70.0
    """How long a watch may be silent before it is begun anew; an API server sends something every 60 seconds."""

    leader_elect: bool = False
    """Work only while holding a Lease, so that several operators can stand by for each other."""

    leader_elect_resource_name: str = "ghostfleet-operator"
    """Name of that Lease; operators that work in different namespaces need different ones."""

    leader_elect_resource_namespace: str | None = None
    """Namespace of that Lease; without it the one of the pod."""

    leader_elect_lease_duration: int = 15
    """Seconds for which others leave the Lease alone when it is not renewed."""

    leader_elect_renew_deadline: float = 10.0
    """Seconds for which its holder goes on without having renewed it."""

    leader_elect_retry_period: float = 2.0
    """Seconds between two tries to get or to renew it."""

    @property
    def lease_times(self) -> LeaseTimes:
        """The three times together."""
        return LeaseTimes(
            self.leader_elect_lease_duration, self.leader_elect_renew_deadline, self.leader_elect_retry_period
        )
