"""The session's API server with our CRDs, and an operator process that works on all of it."""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml
from e2e.build.manifests import inference_extension
from e2e.shell import Failure
from tests.apiserver import audit, control_plane
from tests.apiserver.cluster import CRD, Cluster, condition, eventually, path
from tests.apiserver.control_plane import ControlPlane, Unavailable

from ghostfleet_operator.reconcile.api import PROFILE, SERVER

CRDS = Path(__file__).parents[2] / "crds"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker("apiserver")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure is shown with what the operator said and counted meanwhile, a missing API server in one line."""
    report = yield
    if report.skipped and report.when == "setup" and isinstance(report.longrepr, tuple):
        # pytest folds skips of one place and reason into one line.
        report.longrepr = (str(Path(__file__).parent), 0, report.longrepr[2])
    running = getattr(item, "funcargs", {}).get("operator")
    if report.failed and isinstance(running, Operator):
        report.sections.append(("operator log", "\n".join(running.log.read_text().splitlines()[-300:])))
        with contextlib.suppress(httpx.HTTPError):
            report.sections.append(("operator metrics", running.metrics()))
    return report


@pytest.fixture(scope="package")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """The API server of all these tests: it writes down what service accounts ask for, and asks for every right there
    is to ask for."""
    folder = tmp_path_factory.mktemp("control-plane")
    flags = (*audit.flags(folder), "--enable-admission-plugins=OwnerReferencesPermissionEnforcement")
    with contextlib.ExitStack() as stack:
        try:
            started = stack.enter_context(control_plane.running(folder, *flags))
        except Unavailable as error:
            if os.environ.get("GHOSTFLEET_CI") == "1":
                pytest.fail(f"the API-server tier must run in CI: {error}", pytrace=False)
            pytest.skip(str(error).splitlines()[0])
        yield started


@pytest.fixture(scope="package")
def cluster(plane: ControlPlane) -> Iterator[Cluster]:
    """The cluster with the CRDs that are in the repository."""
    with with_crds(plane) as made:
        yield made


@contextlib.contextmanager
def with_crds(plane: ControlPlane) -> Iterator[Cluster]:
    """The cluster of an API server, once our CRDs are there."""
    with plane.client() as client:
        made = Cluster(client)
        for file in sorted(CRDS.glob("*.yaml")):
            made.create(yaml.safe_load(file.read_text()))
        for file in sorted(CRDS.glob("*.yaml")):
            name = yaml.safe_load(file.read_text())["metadata"]["name"]
            eventually(lambda name=name: _established(made, name))
        yield made


@contextlib.contextmanager
def with_inference_pools(cluster: Cluster) -> Iterator[None]:
    """The cluster with the InferencePool's CRD, as its project publishes it, until the block ends."""
    try:
        text = (inference_extension() / "inference.networking.k8s.io_inferencepools.yaml").read_text()
    except Failure as error:
        if os.environ.get("GHOSTFLEET_CI") == "1":
            pytest.fail(f"the InferencePool's CRD must be there in CI: {error}", pytrace=False)
        pytest.skip(f"there is no CRD of the InferencePool: {str(error).splitlines()[0]}")
    name = cluster.create(yaml.safe_load(text))["metadata"]["name"]
    eventually(lambda: _established(cluster, name))
    yield
    cluster.delete(CRD, None, name)
    eventually(lambda: cluster.get(CRD, None, name) is None or None)


def _established(cluster: Cluster, name: str) -> bool:
    found = cluster.must_get(CRD, None, name)
    assert condition(found, "Established").get("status") == "True"
    return True


@dataclass(frozen=True)
class Operator:
    """A running operator process."""

    metrics_url: str
    log: Path
    process: subprocess.Popen[bytes]

    def readiness(self) -> str:
        """What `/readyz` says; nothing before it listens."""
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.metrics_url}/readyz", trust_env=False).text.strip()
        return ""

    def until_ready(self) -> None:
        def look() -> bool:
            assert self.readiness() == "ok", self.log.read_text()
            return True

        eventually(look, within=30)

    def metric(self, line: str) -> float:
        """Value of the series whose name and labels begin with `line`, summed up."""
        return sum(float(row.rpartition(" ")[2]) for row in self.metrics().splitlines() if row.startswith(line))

    def leads(self) -> bool:
        """Whether it is the one that works; not where it does not answer."""
        with contextlib.suppress(httpx.HTTPError):
            return self.metric("ghostfleet_operator_leader") == 1
        return False

    def metrics(self) -> str:
        return httpx.get(f"{self.metrics_url}/metrics", trust_env=False, timeout=30).text


StartOperator = Callable[..., "contextlib.AbstractContextManager[Operator]"]


@pytest.fixture(scope="package")
def start_operator(plane: ControlPlane, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> StartOperator:
    """Starts the operator as a process, as it is installed, until the block ends."""

    @contextlib.contextmanager
    def start(*arguments: str, wait: bool = True) -> Iterator[Operator]:
        folder = tmp_path_factory.mktemp("operator")
        key = folder.parent / "key"
        if not key.exists():
            key.write_text(secrets.token_hex(32))
        (port,) = control_plane.free_ports(1)
        command = [sys.executable, "-m", "ghostfleet_operator.cli.main", "operator"]
        command += ["--kubeconfig", str(plane.kubeconfig), "--key-file", str(key), "--simulator-image", "sim:1"]
        command += ["--health-host", "127.0.0.1", "--health-port", str(port), *arguments]
        log = folder / "operator.log"
        with control_plane.process(command, log) as child:
            operator = Operator(f"http://127.0.0.1:{port}", log, child)
            if wait:
                operator.until_ready()
            yield operator
        text = log.read_text()
        assert "Traceback" not in text, text
        assert "unexpected error" not in text, text

    return start


@pytest.fixture(scope="module")
def operator(start_operator: StartOperator) -> Iterator[Operator]:
    """An operator that works on every namespace, looking at pods every second; it ends with the tests of its file."""
    timing = ("--observe-seconds", "1", "--resync-seconds", "3")
    with start_operator(*timing, "--cluster-profiles", "--log-level", "debug") as started:
        yield started


_NUMBERS = itertools.count(1)


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace of the test's own; what is ours in it goes with the test, as some operators see all namespaces."""
    name = f"test-{next(_NUMBERS)}"
    cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    for kind in (SERVER, PROFILE):
        cluster.call("DELETE", path(kind, name))
