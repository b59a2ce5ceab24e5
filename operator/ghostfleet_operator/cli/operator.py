"""`ghostfleet operator`: turns SimulatedModelServer objects of a cluster into running servers, and keeps them so."""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghostfleet_operator.cli.errors import CommandError, Exit
from ghostfleet_operator.cli.parser import Parser
from ghostfleet_simulator import __version__
from ghostfleet_simulator.config import LogFormat, LogLevel

if TYPE_CHECKING:
    from ghostfleet_operator.kube.options import OperatorOptions

_OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_NEEDED = ("kopf", "kubernetes", "prometheus_client")


def _number(kind: type[int | float], least: float, most: float = 1e9) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = kind(least) - 1
        if not least <= value <= most:
            article = "a whole number" if kind is int else "a number"
            limit = f" and at most {most:g}" if value > most else ""
            raise argparse.ArgumentTypeError(f"{text!r} is not {article} of at least {least:g}{limit}")
        return value

    return parse


def _parser(environ: Mapping[str, str]) -> Parser:
    parser = Parser("operator", "Runs the operator, in a cluster or outside of it.")
    image = environ.get("GHOSTFLEET_SIMULATOR_IMAGE") or f"ghostfleet-sim:{__version__}"
    add = parser.add_argument
    add(
        "-n",
        "--namespace",
        action="append",
        dest="namespaces",
        metavar="NAME",
        help="work in this namespace only; repeat for more",
    )
    add(
        "--cluster-profiles",
        action="store_true",
        default=None,
        help="let servers refer to ClusterLatencyProfile objects; not with --namespace",
    )
    add(
        "--inference-pools",
        action="store_true",
        default=None,
        help="make the InferencePools that servers ask for in spec.networking.inferencePool",
    )
    add("--kubeconfig", metavar="FILE", help="kubeconfig to use instead of what kubectl would use")
    add("--context", metavar="NAME", help="context of the kubeconfig")
    add(
        "--simulator-image",
        metavar="IMAGE",
        default=image,
        help="image of simulator pods (GHOSTFLEET_SIMULATOR_IMAGE; now %(default)s)",
    )
    add("--image-pull-policy", choices=("Always", "IfNotPresent", "Never"), help="pull policy of the simulator image")
    add(
        "--image-pull-secret",
        action="append",
        dest="image_pull_secrets",
        metavar="NAME",
        help="pull secret of simulator pods; repeat for more",
    )
    add(
        "--key-file",
        metavar="FILE",
        default=environ.get("GHOSTFLEET_KEY_FILE"),
        help="keys that admin tokens come from, one of 16 bytes or more a line (GHOSTFLEET_KEY_FILE)",
    )
    add("--health-host", metavar="ADDRESS", help="address of /healthz, /readyz and /metrics")
    add("--health-port", metavar="PORT", type=_number(int, 0, 65535), help="port of /healthz, /readyz and /metrics")
    add("--workers", metavar="N", type=_number(int, 1, 1000), help="servers that are worked on at the same time")
    add("--writes-per-second", metavar="N", type=_number(float, 0.1), help="writes to the API server in the long run")
    add("--write-burst", metavar="N", type=_number(int, 1), help="writes to the API server at once")
    add("--observe-seconds", metavar="S", type=_number(float, 1), help="how often pods are asked what they run")
    add("--resync-seconds", metavar="S", type=_number(float, 1), help="how often everything is compared with the API")
    add(
        "--watch-silent-seconds",
        metavar="S",
        type=_number(float, 1, 120),
        help="when a silent watch is begun anew (70)",
    )
    add(
        "--leader-elect",
        action="store_true",
        default=None,
        help="work only while holding a Lease, so that several operators stand by for each other",
    )
    add("--leader-elect-resource-name", metavar="NAME", help="name of the Lease (ghostfleet-operator)")
    add("--leader-elect-resource-namespace", metavar="NAME", help="its namespace (in a cluster: that of the pod)")
    add(
        "--leader-elect-lease-duration",
        metavar="S",
        type=_number(int, 1, 3600),
        help="how long others leave a Lease alone that is not renewed (15)",
    )
    add(
        "--leader-elect-renew-deadline",
        metavar="S",
        type=_number(float, 0.1, 3600),
        help="how long its holder goes on without having renewed it (10)",
    )
    add(
        "--leader-elect-retry-period",
        metavar="S",
        type=_number(float, 0.1, 3600),
        help="time between two tries to get or renew it (2)",
    )
    add(
        "--log-level", type=str.lower, choices=[level.value for level in LogLevel], help="least severity that is logged"
    )
    add("--log-format", type=str.lower, choices=[form.value for form in LogFormat], help="how log lines look")
    return parser


def main(argv: Sequence[str]) -> int:
    """Runs the operator until told to stop."""
    given = {key: value for key, value in vars(_parser(os.environ).parse_args(argv)).items() if value is not None}
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        install = f"pip install 'ghostfleet[operator]=={__version__}'"
        raise CommandError(f"needs {' and '.join(missing)}, which the extra `operator` brings: {install}")
    from ghostfleet_operator.kube.main import run  # noqa: PLC0415 - only with the extra
    from ghostfleet_operator.kube.options import OperatorOptions  # noqa: PLC0415

    if "key_file" not in given:
        raise CommandError("--key-file: required, but not given", Exit.USAGE)
    if given.get("cluster_profiles") and given.get("namespaces"):
        why = "an operator of some namespaces cannot read objects of the cluster"
        raise CommandError(f"--cluster-profiles: not with --namespace: {why}", Exit.USAGE)
    values: dict[str, Any] = {}
    for field in fields(OperatorOptions):
        if field.name in given:
            value = given[field.name]
            values[field.name] = tuple(value) if isinstance(value, list) else value
    values["key_file"] = Path(values["key_file"])
    if "log_level" in values:
        values["log_level"] = LogLevel(values["log_level"])
    if "log_format" in values:
        values["log_format"] = LogFormat(values["log_format"])
    options = OperatorOptions(**values)
    return run(_with_lease(options) if options.leader_elect else options)


def _with_lease(options: OperatorOptions) -> OperatorOptions:
    """The options with the Lease's namespace filled in; raises `CommandError` where the election cannot work."""
    if trouble := options.lease_times.trouble():
        raise CommandError(f"--leader-elect: {trouble}", Exit.USAGE)
    namespace = options.leader_elect_resource_namespace
    if namespace is None:
        try:
            namespace = _OWN_NAMESPACE.read_text().strip()
        except OSError:
            flag = "--leader-elect-resource-namespace"
            raise CommandError(f"{flag}: required outside of a cluster, but not given", Exit.USAGE) from None
    return replace(options, leader_elect_resource_namespace=namespace)
