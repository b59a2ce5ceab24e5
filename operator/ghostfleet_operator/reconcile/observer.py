"""What a reconciler reports about its own work; `kube` turns it into metrics."""

from __future__ import annotations

from typing import Protocol


class WorkObserver(Protocol):
    """Is told what happened; must not raise."""

    def pushed(self, result: str, seconds: float) -> None:
        """A document was pushed to a pod with a result: `acknowledged`, `refused`, `timeout`, `unreachable`."""

    def synced(self, seconds: float) -> None:
        """Every Ready pod of a server came to run a new document, `seconds` after it was wanted."""

    def corrected(self, kind: str) -> None:
        """A child that somebody else had changed or deleted was put right."""

    def rolled_back(self) -> None:
        """A wave failed, and its document was taken back."""
