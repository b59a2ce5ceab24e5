"""The publisher and real ZeroMQ subscribers: bound, connected to, too slow, too late."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
import zmq
from tests.served import free_port

from ghostfleet_simulator.config import FailureType, ServerConfig
from ghostfleet_simulator.engine.cache_events import BlockRemoved
from ghostfleet_simulator.faults.events import EventFaults
from ghostfleet_simulator.kv_events.publisher import Publisher
from ghostfleet_simulator.kv_events.replay import END
from ghostfleet_simulator.metrics.own import KVEventMetrics

EVENTS = [BlockRemoved([bytes(32)])]
WAIT_MS = 5000


class Bench:
    """Publishers and subscribers of one test."""

    def __init__(self) -> None:
        self.context = zmq.Context()
        self.publishers: list[Publisher] = []
        self.faults: list[FailureType] = []

    def publisher(
        self, version: str = "0.33", failures: list[dict[str, Any]] | None = None, rank: int = 0, **fields: Any
    ) -> Publisher:
        config = ServerConfig.model_validate(
            {
                "model": {"name": "m"},
                "engine": {"version": version},
                "kvEvents": {"enableKvCacheEvents": True, "topic": "t", **fields},
                "failures": failures or [],
                "listen": {"host": "127.0.0.1"},
            }
        )
        faults = EventFaults(0, self.faults.append)
        faults.use(config.failures)
        publisher = Publisher(config, faults, KVEventMetrics(lambda: 0.0), rank=rank, clock=lambda: 7.0)
        self.publishers.append(publisher)
        return publisher

    def subscriber(self, *, connect: str = "", bind: str = "", hwm: int = 0) -> zmq.Socket[bytes]:
        socket = self.context.socket(zmq.SUB)
        socket.set_hwm(hwm)
        socket.subscribe(b"")
        if connect:
            socket.connect(connect)
        if bind:
            socket.bind(bind)
        return socket

    def dealer(self, endpoint: str) -> zmq.Socket[bytes]:
        socket = self.context.socket(zmq.DEALER)
        socket.connect(endpoint)
        return socket


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    yield made
    for publisher in made.publishers:
        publisher.close()
    await asyncio.sleep(0)  # what was cancelled ends
    made.context.destroy(linger=0)


def at(port: int) -> str:
    return f"tcp://127.0.0.1:{port}"


def publish_until_heard(publisher: Publisher, *subscribers: zmq.Socket[bytes]) -> int:
    """A subscription takes a moment; the number of the last batch when all subscribers have one."""
    tries = 0
    while not all(subscriber.poll(20) for subscriber in subscribers):
        assert (tries := tries + 1) < 250, "nothing arrived"
        publisher.publish(EVENTS)
    number = publisher.told()["sequence"] - 1
    heard = []
    for subscriber in subscribers:
        last = b""
        while subscriber.poll(100):
            last = subscriber.recv_multipart()[1]
        heard.append(int.from_bytes(last, "big"))
    assert heard == [number] * len(heard)
    return number


async def frames_of(socket: zmq.Socket[bytes], until: Callable[[list[bytes]], bool]) -> list[list[bytes]]:
    """Messages up to the one that is meant, while the event loop goes on."""
    received = []
    async with asyncio.timeout(WAIT_MS / 1000):
        while True:
            while not socket.poll(0):
                await asyncio.sleep(0.001)
            received.append(socket.recv_multipart())
            if until(received[-1]):
                return received


def test_a_bound_publisher_sends_three_frames(bench: Bench) -> None:
    """Topic, number as 8 bytes big-endian, and a batch `[time, events, rank]`."""
    port = free_port()
    publisher = bench.publisher(endpoint=f"tcp://*:{port - 2}", rank=2)
    subscriber = bench.subscriber(connect=at(port))
    number = publish_until_heard(publisher, subscriber)
    publisher.publish(EVENTS)
    topic, sequence, payload = subscriber.recv_multipart()
    assert (topic, sequence) == (b"t", (number + 1).to_bytes(8, "big"))
    assert msgspec.msgpack.decode(payload)[0::2] == [7.0, 2]


def test_a_publisher_connects_to_a_subscriber_that_binds_and_is_bound_at_once(bench: Bench) -> None:
    """A scheduler with one socket for all servers, and another that dials each of them, both hear all."""
    bound, port = free_port(), free_port()
    subscribers = [bench.subscriber(bind=at(port))]
    publisher = bench.publisher(endpoint=f"tcp://*:{bound}", connect=[at(port)])
    subscribers.append(bench.subscriber(connect=at(bound)))
    publish_until_heard(publisher, *subscribers)
    only = bench.publisher(endpoint=at(port))
    publish_until_heard(only, subscribers[0])


async def test_it_tells_how_many_of_the_connections_that_it_is_to_make_stand(bench: Bench) -> None:
    """One that only listens has none to make; a subscriber may come after it, and go."""

    async def told(made: int) -> None:
        async with asyncio.timeout(WAIT_MS / 1000):
            while publisher.told()["connections"] != {"wanted": 2, "made": made}:
                await asyncio.sleep(0.01)

    first, second = free_port(), free_port()
    assert bench.publisher(endpoint=at(free_port()).replace("127.0.0.1", "*")).told()["connections"] == {
        "wanted": 0,
        "made": 0,
    }
    publisher = bench.publisher(endpoint=at(first), connect=[at(second)])
    await told(0)
    subscriber = bench.subscriber(bind=at(second))
    await told(1)
    other = bench.subscriber(bind=at(first))
    await told(2)
    subscriber.close(linger=0)
    await told(1)
    other.close(linger=0)
    await told(0)


def test_a_taken_port_is_told(bench: Bench) -> None:
    """As an error with the endpoint in it; nothing stays open."""
    port = free_port()
    bench.publisher(endpoint=f"tcp://*:{port}")
    with pytest.raises(OSError, match=rf"Address already in use: 'tcp://127\.0\.0\.1:{port} \(kvEvents\)'"):
        bench.publisher(endpoint=f"tcp://*:{port}")
    free = free_port()
    with pytest.raises(OSError, match="already in use"):
        bench.publisher(endpoint=f"tcp://*:{free}", replayEndpoint=f"tcp://*:{port}")
    bench.publisher(endpoint=f"tcp://*:{free}")


def test_the_port_that_the_system_chose_is_shown(bench: Bench) -> None:
    """`GET /kv_event_sources` names it."""
    publisher = bench.publisher(endpoint="tcp://*:0")
    shown = publisher.to_json()["endpoint"]
    assert shown.startswith("tcp://127.0.0.1:")
    publish_until_heard(publisher, bench.subscriber(connect=shown))


@pytest.mark.parametrize(("version", "topic"), [("0.33", [b"t"]), ("0.26", [b"t"]), ("0.25", []), ("0.12", [])])
async def test_replay(bench: Bench, version: str, topic: list[bytes]) -> None:
    """From the number asked for, with the topic since 0.26, then a marker; only the last batches are kept."""
    port = free_port()
    publisher = bench.publisher(
        version, endpoint=f"tcp://*:{free_port()}", replayEndpoint=f"tcp://*:{port}", bufferSteps=70
    )
    publisher.start()
    for _ in range(100):
        publisher.publish(EVENTS)
    dealer = bench.dealer(at(port))
    for first, expected in ((0, range(30, 100)), (95, range(95, 100)), (1000, range(0))):
        dealer.send_multipart([b"", first.to_bytes(8, "big")])
        *batches, marker = await frames_of(dealer, lambda frames: frames[-2] == END)
        assert [int.from_bytes(frames[-2], "big") for frames in batches] == list(expected)
        assert all(frames[:-2] == [b"", *topic] for frames in batches)
        assert marker == [b"", *[b"" for _ in topic], b"\xff" * 8, b""]
    dealer.send_multipart([b"", b"one", b"too many"])
    dealer.send_multipart([b"", (99).to_bytes(8, "big")])
    assert len(await frames_of(dealer, lambda frames: frames[-2] == END)) == 2


async def test_a_replay_that_nobody_reads_holds_up_neither_batches_nor_the_event_loop(bench: Bench) -> None:
    """Others have their turn between its portions."""
    port, bound = free_port(), free_port()
    publisher = bench.publisher(endpoint=f"tcp://*:{bound}", replayEndpoint=f"tcp://*:{port}")
    publisher.start()
    subscriber = bench.subscriber(connect=at(bound))
    publish_until_heard(publisher, subscriber)
    for _ in range(3000):
        publisher.publish(EVENTS)
    while subscriber.poll(50):
        subscriber.recv_multipart()
    dealer = bench.dealer(at(port))
    dealer.send_multipart([b"", bytes(8)])
    turns = 0
    while not dealer.poll(0):
        await asyncio.sleep(0)
    while publisher._replay is not None and publisher._replay._task is not None:
        await asyncio.sleep(0)
        turns += 1
    assert turns > 3000 // 32 // 2
    publisher.publish(EVENTS)
    assert subscriber.poll(WAIT_MS)


def test_a_subscriber_that_does_not_read_misses_batches_and_that_is_counted(bench: Bench) -> None:
    """The others get everything; the numbers that reach the slow one have a gap."""
    port = free_port()
    publisher = bench.publisher(endpoint=f"tcp://*:{port}", hwm=10, intBlockHashes=False)
    slow, quick = bench.subscriber(connect=at(port), hwm=1), bench.subscriber(connect=at(port))
    begin = publish_until_heard(publisher, slow, quick)
    metrics, large = publisher._metrics, [BlockRemoved([bytes(1 << 20)])]
    for number in range(begin + 1, begin + 61):  # the kernel's buffers hold some megabytes for the slow one
        publisher.publish(large)
        assert quick.poll(WAIT_MS), "another one's slowness was felt"
        assert int.from_bytes(quick.recv_multipart()[1], "big") == number
    assert metrics.published.value == begin + 61
    assert metrics.subscriber_overflows.value > 0
    assert metrics.publisher_overflows.value == 0
    numbers = []
    while slow.poll(300):
        numbers.append(int.from_bytes(slow.recv_multipart()[1], "big"))
    publisher.publish(EVENTS)
    assert slow.poll(WAIT_MS)
    numbers.append(int.from_bytes(slow.recv_multipart()[1], "big"))
    assert numbers[-1] == begin + 61
    assert len(numbers) < 60


def test_what_is_lost_by_injection_leaves_a_gap_and_can_be_replayed(bench: Bench) -> None:
    """Every number is used once; the batch is among those that are kept."""
    port = free_port()
    publisher = bench.publisher(endpoint=f"tcp://*:{port}")
    subscriber = bench.subscriber(connect=at(port))
    begin = publish_until_heard(publisher, subscriber)
    publisher._faults.use(
        ServerConfig.model_validate(
            {"model": {"name": "m"}, "failures": [{"type": "KVEventLoss", "probability": "50%"}]}
        ).failures
    )
    for _ in range(100):
        publisher.publish(EVENTS)
    numbers = []
    while subscriber.poll(300):
        numbers.append(int.from_bytes(subscriber.recv_multipart()[1], "big"))
    lost = len(bench.faults)
    assert bench.faults == [FailureType.KV_EVENT_LOSS] * lost
    assert 20 < lost < 80
    assert len(set(numbers)) == len(numbers) == 100 - lost
    assert set(numbers) <= set(range(begin + 1, begin + 101))
    assert [number for number, _ in publisher._kept][-100:] == list(range(begin + 1, begin + 101))


def test_doubled_batches_have_the_same_number(bench: Bench) -> None:
    """A subscriber can tell them by it."""
    port = free_port()
    publisher = bench.publisher(endpoint=f"tcp://*:{port}", failures=[{"type": "KVEventDuplicate"}])
    subscriber = bench.subscriber(connect=at(port))
    number = publish_until_heard(publisher, subscriber)
    publisher.publish(EVENTS)
    heard = [subscriber.recv_multipart() for _ in range(2)]
    assert heard[0] == heard[1]
    assert int.from_bytes(heard[0][1], "big") == number + 1
    assert len(publisher._kept) == number + 2


async def test_delayed_batches_keep_their_order_and_the_queue_has_an_end(bench: Bench) -> None:
    """Those beyond `maxQueueSize` are lost, counted, and leave a gap."""
    port = free_port()
    publisher = bench.publisher(endpoint=f"tcp://*:{port}", maxQueueSize=3)
    subscriber = bench.subscriber(connect=at(port))
    begin = publish_until_heard(publisher, subscriber)
    loop = asyncio.get_running_loop()
    publisher._faults.use(
        ServerConfig.model_validate(
            {"model": {"name": "m"}, "failures": [{"type": "KVEventDelay", "duration": "200ms"}]}
        ).failures
    )
    began = loop.time()
    for _ in range(5):
        publisher.publish(EVENTS)
    publisher._faults.use(())
    publisher.publish(EVENTS)
    assert publisher._metrics.publisher_overflows.value == 3
    assert publisher.told()["heldUp"] == 3
    heard = await frames_of(subscriber, lambda frames: int.from_bytes(frames[1], "big") == begin + 3)
    assert loop.time() - began >= 0.19
    publisher.publish(EVENTS)
    heard += await frames_of(subscriber, lambda frames: int.from_bytes(frames[1], "big") == begin + 7)
    numbers = [int.from_bytes(frames[1], "big") - begin for frames in heard]
    assert numbers == [1, 2, 3, 7]
    assert [number - begin for number, _ in publisher._kept][-4:] == [1, 2, 3, 7]
