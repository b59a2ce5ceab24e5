"""HTTP to the admin ports of pods: many hosts, few requests to each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import aiohttp

from ghostfleet_operator.rollout import CONNECT_SECONDS, TOTAL_SECONDS, Answer, Unanswered

_LARGEST_ANSWER: Final = 2**20


class PodClient:
    """Sends requests to pods. Opened by the first one, in whose event loop it lives; to be closed.

    httpx does the same for the laptop fleet, but takes six times the CPU for each request, and its pool slows down with
    the number of hosts.
    """

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def send(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        """One request; raises `Unanswered`."""
        try:
            async with self._open().request(method, url, headers=headers, data=body, allow_redirects=False) as answer:
                return Answer(answer.status, await _read(answer))
        except TimeoutError:
            raise Unanswered("no answer in time", timeout=True) from None
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
            raise Unanswered(_words(error), again=True) from None
        except (aiohttp.ClientError, ValueError) as error:
            raise Unanswered(_words(error)) from None

    async def close(self) -> None:
        """Close the connections."""
        if self._session:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
                timeout=aiohttp.ClientTimeout(total=TOTAL_SECONDS, sock_connect=CONNECT_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )
        return self._session


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    found = bytearray()
    async for chunk in answer.content.iter_any():
        found += chunk
        if len(found) > _LARGEST_ANSWER:
            raise Unanswered(f"answers with more than {_LARGEST_ANSWER} bytes")
    return bytes(found)


def _words(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.os_error.strerror or str(error.os_error)
    return str(error) or type(error).__name__
