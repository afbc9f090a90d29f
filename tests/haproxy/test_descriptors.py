"""Client connections leave file descriptors for everything else that an edge opens."""

from __future__ import annotations

import pytest

from pointsman.haproxy.config import Bind, EdgeConfig, Server
from pointsman.haproxy.descriptors import FD_HARD_LIMIT, MAX_CONNECTIONS, connections_within, open_files_limit
from pointsman.haproxy.errors import ConfigError
from pointsman.haproxy.render import render


def make_edge(servers: int = 0, maxconn: int = 0) -> EdgeConfig:
    return EdgeConfig(
        binds=(Bind("127.0.0.1", 8000),),
        ring_address="127.0.0.1:9103",
        spop_address="127.0.0.1:9101",
        admin_socket="/run/pointsman/admin.sock",
        servers=tuple(Server(f"r{n}", "10.0.0.1", n) for n in range(1, servers + 1)),
        maxconn=maxconn,
    )


@pytest.mark.parametrize(
    ("open_files", "servers", "connections"),
    [
        # limit / 2 - 2 x servers - 32; at least as many servers are reckoned with as limit / 32.
        pytest.param(256, 0, 128 - 2 * 8 - 32, id="low limit, servers added at run time"),
        pytest.param(256, 10, 128 - 2 * 10 - 32, id="low limit, more servers in the file"),
        pytest.param(1024, 4, 512 - 2 * 32 - 32, id="a shell's default"),
        pytest.param(65_536, 1500, 32_768 - 2 * 1500 - 32, id="more servers than are reckoned with"),
        pytest.param(FD_HARD_LIMIT, 0, MAX_CONNECTIONS, id="as many as HAProxy takes"),
        pytest.param(1 << 30, 0, MAX_CONNECTIONS, id="a container without a limit"),
    ],
)
def test_connections_are_limited_by_the_limit_of_open_files(open_files: int, servers: int, connections: int) -> None:
    """Two descriptors a connection, four a server, 64 for HAProxy itself."""
    assert connections_within(open_files, servers) == connections
    assert f"    maxconn {connections}\n" in render(make_edge(servers), open_files).haproxy_cfg


def test_a_limit_that_leaves_no_room_for_clients_is_refused() -> None:
    """The sentence names the limit: an edge that takes its replicas out of service is worse than none."""
    with pytest.raises(ConfigError, match=r"limit of open files: got 80, expected one that leaves room"):
        render(make_edge(), 80)


def test_connections_that_are_asked_for_leave_room_too() -> None:
    """HAProxy allocates descriptors for its global maxconn alone, so that is greater than the frontend's."""
    text = render(make_edge(servers=3, maxconn=1000)).haproxy_cfg
    assert f"global\n    default-path config\n    maxconn {1000 + 2 * 62 + 32}\n" in text  # 62 is 2,000 / 32
    assert "    maxconn 1000\n" in text


def test_the_limit_of_this_process_counts() -> None:
    """HAProxy inherits it."""
    assert 0 < open_files_limit() <= FD_HARD_LIMIT
