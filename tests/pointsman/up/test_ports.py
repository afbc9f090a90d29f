"""Addresses: parsed, checked, picked."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pointsman.contract.errors import ConfigurationError
from pointsman.errors import StartError
from pointsman.router.process.listen import Listen
from pointsman.up.ports import EPHEMERAL, LOWEST_PICKED, PortHolder, parse_listen, pick_ports


@pytest.mark.parametrize(
    ("text", "listen"),
    [
        ("127.0.0.1:8000", Listen("127.0.0.1", 8000)),
        ("0.0.0.0:0", Listen("0.0.0.0", 0)),
        ("[::1]:80", Listen("::1", 80)),
        ("8000", Listen("127.0.0.1", 8000)),
        ("localhost:1", Listen("localhost", 1)),
    ],
)
def test_addresses_are_read(text: str, listen: Listen) -> None:
    """Host and port, a v6 host in brackets, or a port alone on loopback."""
    assert parse_listen(text, "--listen") == listen


@pytest.mark.parametrize("text", ["", "host", "host:", "host:x", "host:70000", "1.2.3.4:-1"])
def test_a_bad_address_names_its_flag(text: str) -> None:
    """The sentence shows the value and the form."""
    with pytest.raises(ConfigurationError, match=r"--admin: .*HOST:PORT"):
        parse_listen(text, "--admin")


@pytest.fixture
def ports() -> Iterator[PortHolder]:
    holder = PortHolder()
    yield holder
    holder.close()


def test_port_zero_becomes_a_port_to_listen_on(ports: PortHolder) -> None:
    """A server of one of this process's children gets it, again after it was closed."""
    found = ports.settle(Listen("127.0.0.1", 0), "--listen")
    for _ in range(2):
        with socket.create_server((found.host, found.port)):  # sets SO_REUSEADDR
            pass


def test_nobody_else_who_picks_gets_a_held_port(ports: PortHolder) -> None:
    """Whether somebody listens there yet or not; once it is let go of, anybody may have it."""
    port = ports.pick()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))
    ports.close()
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))


@pytest.mark.parametrize("port", [0, 1])
def test_a_host_nobody_knows_is_named(port: int, ports: PortHolder) -> None:
    """Before anything starts."""
    with pytest.raises(StartError, match=r"no-such-host\.invalid"):
        ports.settle(Listen("no-such-host.invalid", port), "--listen")


def test_picked_ports_differ() -> None:
    """All are held until the last is picked."""
    assert len(set(pick_ports(20))) == 20


@pytest.mark.skipif(not EPHEMERAL.exists(), reason="not Linux")
def test_no_outgoing_connection_takes_a_picked_port(ports: PortHolder) -> None:
    """The kernel gives those out from a range of its own, maybe before a process has started to listen."""
    low, high = map(int, EPHEMERAL.read_text().split())
    if low <= LOWEST_PICKED:
        pytest.skip("this machine leaves no ports below")
    picked = [*pick_ports(20), ports.pick()]
    assert not [port for port in picked if low <= port <= high]


def test_a_machine_that_leaves_no_ports_below_gets_the_kernels_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Better a port that may be taken than none."""
    everything = tmp_path / "range"
    everything.write_text("1024 65535\n")
    monkeypatch.setattr("pointsman.up.ports.EPHEMERAL", everything)
    assert len(set(pick_ports(3))) == 3
