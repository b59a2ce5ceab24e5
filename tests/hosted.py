"""Servers with all their listeners in a thread of the test's process: as real on the wire, and started in no time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

from tests.served import Server, free_port

from ghostfleet_simulator.flags import load
from ghostfleet_simulator.hosting.hosted import Hosted
from ghostfleet_simulator.text.tokenizer import Tokenizer

T = TypeVar("T")
Host = Callable[..., Server]


@contextmanager
def hosting() -> Iterator[Host]:
    """Gives what hosts a server with the flags of `ghostfleet serve`; all end with the block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    tokenizer = Tokenizer()
    running: list[tuple[Hosted, Future[int]]] = []

    def within(work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, loop).result(60)

    def host(*flags: str) -> Server:
        port = int(flags[flags.index("--port") + 1]) if "--port" in flags else free_port()
        here = Server(port, free_port())
        ports = ("--host", "127.0.0.1", "--port", str(here.port), "--admin-port", str(here.admin_port))
        loaded = load(["--model", "org/model", "--served-model-name", "m", *flags, *ports], {})

        async def make() -> Hosted:
            return Hosted(
                loaded.config, loaded.document, loaded.options, tokenizer=tokenizer, environ={}, shares_process=True
            )

        hosted = within(make())
        running.append((hosted, asyncio.run_coroutine_threadsafe(hosted.run(), loop)))
        within(hosted.listening.wait())
        return here

    try:
        yield host
    finally:
        for hosted, _ in running:
            loop.call_soon_threadsafe(hosted.stop)
        for _, ended in running:
            ended.result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)
        loop.close()
