"""The client of other servers' side channels.

There is no NIXL between simulated servers, so what its agents would do is said by HTTP on the address that the
connector advertises (docs/decisions/0014-a-side-channel-in-http.md).
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from typing import Any, Final

import httpx

from ghostfleet_simulator.transfer import ROUTES
from ghostfleet_simulator.transfer.params import Source

_CONNECT_S: Final = 5.0
_MARGIN_S: Final = 30.0


class Unfetched(Exception):
    """The other side did not give what was asked for; says why."""


class NoPeer(Unfetched):
    """There is nobody who speaks this protocol."""


class Peers:
    """Connections to other servers."""

    def __init__(self) -> None:
        # No certificates are read, which would take a tenth of a second: the side channel is plain HTTP. Proxies of the
        # environment are for the outside world.
        self._client = httpx.AsyncClient(verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), trust_env=False)

    async def fetch(self, source: Source, blocks: int, patience_s: float) -> None:
        """Have the other side begin to send; returns once it has what was asked for. Raises `Unfetched`.

        Where both sides got their requests at once it may take up to `patience_s` until it has.
        """
        asked = {"key": source.key, "engineId": source.engine_id, "blocks": blocks, "early": source.early}
        await self._post(source.address, "fetch", asked, patience_s + _MARGIN_S)

    async def done(self, source: Source) -> bool:
        """Say that nothing more is needed; returns when all is sent. False if the other side had let it go by then."""
        told = await self._post(source.address, "done", {"key": source.key}, None)
        return bool(told.get("held"))

    async def heartbeat(self, address: str, keys: Iterable[str]) -> None:
        """Say that these are still wanted. Raises `Unfetched`."""
        await self._post(address, "heartbeat", {"keys": list(keys)}, _MARGIN_S)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _post(self, address: str, what: str, body: dict[str, Any], read_s: float | None) -> dict[str, Any]:
        try:
            answer = await self._client.post(
                f"{address}{ROUTES}/{what}", json=body, timeout=httpx.Timeout(read_s, connect=_CONNECT_S)
            )
            told = answer.json()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise NoPeer(f"{address}: {type(error).__name__} {error}".rstrip()) from None
        except ValueError:
            told = None
        if not isinstance(told, dict) or "held" not in told:
            raise NoPeer(f"{address} answers {answer.status_code} and is no server of this kind")
        if not answer.is_success:
            raise Unfetched(f"{address}: {told.get('message', answer.status_code)}")
        return told
