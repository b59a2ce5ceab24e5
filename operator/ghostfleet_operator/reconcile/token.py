"""The bearer tokens of a server's admin API: derived, so that no Secret ever has to be read back."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

FIRST_EPOCH: Final = 1
SHORTEST_KEY: Final = 16

Keys = Callable[[], tuple[bytes, ...]]
"""The keys that count now, the newest first; there is one at least."""


def admin_token(key: bytes, uid: str, epoch: int = FIRST_EPOCH) -> str:
    """HMAC-SHA256 of a server's UID and the epoch, in hex."""
    return hmac.new(key, f"{uid}:{epoch}".encode(), hashlib.sha256).hexdigest()


def epoch_of(raw: dict[str, Any]) -> int:
    """The epoch that a raw server asks for, also where the rest of its spec is not valid."""
    epoch = (raw.get("spec") or {}).get("adminTokenEpoch")
    return epoch if type(epoch) is int and epoch >= FIRST_EPOCH else FIRST_EPOCH


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of one server, each list with the newest first."""

    accepted: tuple[str, ...]
    """Those that its pods are to accept: one for each key."""
    outgoing: tuple[str, ...]
    """Those that its pods may still have, because the kubelet takes a minute to bring a change of the Secret."""

    @classmethod
    def of(cls, keys: tuple[bytes, ...], uid: str, epoch: int) -> Tokens:
        """Tokens of an epoch; the one before is on its way out."""
        before = range(epoch - 1, max(epoch - 2, FIRST_EPOCH - 1), -1)
        return cls(
            accepted=tuple(admin_token(key, uid, epoch) for key in keys),
            outgoing=tuple(admin_token(key, uid, earlier) for earlier in before for key in keys),
        )
