"""The bearer token of a server's admin API: derived, so that no Secret ever has to be read back."""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

EPOCH: Final = 1
"""Raised when tokens must change though the key stays."""

SHORTEST_KEY: Final = 16


def admin_token(key: bytes, uid: str, epoch: int = EPOCH) -> str:
    """HMAC-SHA256 of a server's UID and the epoch, in hex."""
    return hmac.new(key, f"{uid}:{epoch}".encode(), hashlib.sha256).hexdigest()
