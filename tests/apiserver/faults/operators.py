"""An operator as Kubernetes runs it: whenever its process ends, the next one is started."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.apiserver.control_plane import free_ports
from tests.apiserver.faults.proxy import Proxy
from tests.apiserver.hollow import Hollow


class SupervisedOperator:
    """Works through a proxy, in one namespace."""

    def __init__(self, hollow: Hollow, folder: Path, namespace: str, *flags: str) -> None:
        self.proxy = Proxy(hollow.plane)
        self.namespace = namespace
        self.log = folder / "operator.log"
        self.starts = 0
        self._key = folder / "key"
        self._key.write_text("0123456789abcdef")
        self._folder = folder
        self._flags = ("--namespace", namespace, *flags)
        self._child: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()

    @contextlib.contextmanager
    def running(self) -> Iterator[SupervisedOperator]:
        """Keep it running while the block runs; a traceback in its log is a failure."""
        with self.proxy.running():
            self.proxy.kill = self.kill
            thread = threading.Thread(target=self._supervise, daemon=True)
            thread.start()
            try:
                yield self
            finally:
                self._stopping.set()
                self.kill(signal.SIGTERM)
                thread.join(20)
        text = self.log.read_text()
        assert "Traceback" not in text, text[text.index("Traceback") - 2000 :][:6000]
        assert "unexpected error" not in text, text

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End the process that runs now."""
        if self._child and self._child.poll() is None:
            self._child.send_signal(number)

    def _supervise(self) -> None:
        while not self._stopping.is_set():
            (port,) = free_ports(1)
            config = self.proxy.kubeconfig(self._folder / "kubeconfig")
            command = [
                "setpriv",
                "--pdeathsig",
                "KILL",
                sys.executable,
                "-m",
                "ghostfleet_operator.cli.main",
                "operator",
            ]
            command += ["--kubeconfig", str(config), *self._flags]
            command += ["--key-file", str(self._key), "--health-host", "127.0.0.1", "--health-port", str(port)]
            with self.log.open("ab") as log:
                self._child = subprocess.Popen(command, stdout=log, stderr=log)
            self.starts += 1
            self._child.wait()
