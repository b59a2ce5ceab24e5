"""Which addresses replicas get."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ghostfleet_operator.local import addresses
from ghostfleet_operator.local.addresses import Address, Addresses


@contextmanager
def listening(host: str, port: int) -> Iterator[int]:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen()
        yield listener.getsockname()[1]


def test_each_replica_gets_an_address_with_the_ports_of_a_pod() -> None:
    """Addresses differ, ports do not; what is given back is used again."""
    pool = Addresses()
    first, second = pool.take(), pool.take()
    assert first.host != second.host
    assert (first.port, first.admin_port) == (second.port, second.admin_port)
    pool.give_back(first)
    assert pool.take() == first


@pytest.mark.parametrize("which", ["port", "admin_port"])
def test_an_address_with_a_port_in_use_is_passed_over(which: str) -> None:
    """Either port of another program makes the whole address unusable."""
    usual = Addresses().take()
    with listening(usual.host, getattr(usual, which)):
        assert not usual.is_free()
        assert Addresses().take().host != usual.host
    assert usual.is_free()


def test_a_program_on_all_addresses_moves_the_port_for_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    """With somebody on 0.0.0.0:8000 no address has that port: all replicas get the next one that is free everywhere."""
    with listening("0.0.0.0", 0) as port:
        monkeypatch.setattr(addresses, "PORT", port)
        pool = Addresses()
        first, second = pool.take(), pool.take()
    assert first.port == second.port > port
    assert first.host != second.host


def test_with_one_address_the_ports_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the platform has only 127.0.0.1, as macOS, every replica has ports of its own."""
    monkeypatch.setattr(addresses, "_bindable", lambda host: host == "127.0.0.1")
    pool = Addresses()
    taken = [pool.take() for _ in range(3)]
    assert {address.host for address in taken} == {"127.0.0.1"}
    assert len({address.port for address in taken} | {address.admin_port for address in taken}) == 6


def test_urls_of_an_address() -> None:
    """The API and the admin API are two ports of one host."""
    address = Address("127.0.0.9", 8000, 9101)
    assert (address.url, address.admin_url) == ("http://127.0.0.9:8000", "http://127.0.0.9:9101")


@pytest.mark.parametrize("own_hosts", [True, False])
def test_ranks_have_ports_in_a_row(own_hosts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """No other replica has one of them, and one that is in use makes the whole row unusable."""
    if not own_hosts:
        monkeypatch.setattr(addresses, "_bindable", lambda host: host == "127.0.0.1")
    pool = Addresses()
    taken = [(address := pool.take(ranks), address.ports(ranks)) for ranks in (3, 1, 2)]
    sockets = [(address.host, port) for address, ports in taken for port in (*ports, address.admin_port)]
    assert len(set(sockets)) == 3 + 1 + 2 + 3
    address, ports = taken[0]
    with listening(address.host, ports[2]):
        assert not address.is_free(3)
        assert address.is_free(2)
    pool.give_back(address)
    assert pool.take(3) == address
