"""How an injected failure is carried out on a connection."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from starlette.types import Send

from ghostfleet_simulator.api.errors import ApiError, bad_request
from ghostfleet_simulator.api.protocol import Connection
from ghostfleet_simulator.config import Ending, Failure
from ghostfleet_simulator.faults.answers import answer
from ghostfleet_simulator.faults.forced import ForcedInvalid
from ghostfleet_simulator.runtime.held import Held

FAULT_HEADER: Final = "x-ghostfleet-fault"
"""Names the type of the failure that an answer suffers, or is."""

RawHeaders = Iterable[tuple[bytes, bytes]]


def not_understood(error: ForcedInvalid) -> ApiError:
    """The answer to a request that asks for a failure there is not."""
    return bad_request(str(error))


def error_of(failure: Failure, model: str) -> tuple[ApiError, dict[str, str]] | None:
    """The error that `failure` is to a request for `model`, with its headers; None where it is something else."""
    told = answer(failure, model)
    if told is None:
        return None
    headers = {FAULT_HEADER: failure.type.value}
    if told.retry_after is not None:
        headers["retry-after"] = str(told.retry_after)
    return ApiError(told.status, told.error_type, told.message, told.param), headers


def named(failure: Failure) -> tuple[tuple[bytes, bytes], ...]:
    """The header that names a failure, as it is sent."""
    return ((FAULT_HEADER.encode(), failure.type.value.encode()),)


async def hang(held: Held, failure: Failure, connection: Connection) -> None:
    """Wait until the failure is over or the client has gone."""
    over = asyncio.get_running_loop().create_future()

    def go_on() -> None:
        if not over.done():
            over.set_result(None)

    hold = held.add(failure, go_on)
    held.begin(hold)
    connection.on_lost = go_on
    try:
        await over
    finally:
        connection.on_lost = None
        held.drop(hold)


async def cut_short(
    connection: Connection, send: Send, status: int, headers: RawHeaders, body: bytes, ending: Ending
) -> None:
    """Send the first half of a response whose body would be `body`, and end it.

    `Clean` declares the half as the whole; the others declare the whole, and the connection ends amid it.
    """
    half = body[: len(body) // 2]
    declared = len(half) if ending is Ending.CLEAN else len(body)
    others = [(name, value) for name, value in headers if name.lower() != b"content-length"]
    length = (b"content-length", b"%d" % declared)
    await send({"type": "http.response.start", "status": status, "headers": [*others, length]})
    await send({"type": "http.response.body", "body": half, "more_body": ending is not Ending.CLEAN})
    if ending is not Ending.CLEAN:
        await end_connection(connection, reset=ending is Ending.RESET)


async def end_connection(connection: Connection, *, reset: bool) -> None:
    """End a connection amid a response; returns when it has ended."""
    connection.end(reset=reset)
    await connection.gone()
