"""Number of client connections that fit into the file descriptors of one HAProxy.

HAProxy's own reckoning gives every descriptor to clients: it counts the servers of its file, but none that are added at
run time, and no idle connection. When a socket cannot be opened, HAProxy counts that against the *server*
(`observe layer4`) and as a failed health check, so an edge that runs out of descriptors takes healthy replicas out of
service. The connections of the frontend are therefore limited to `connections_within`, which leaves room for the rest.
"""

from __future__ import annotations

import resource

from pointsman.haproxy.errors import ConfigError

MAX_CONNECTIONS = 50_000
"""Client connections at once where the limit of open files allows more."""

SERVERS_ADDED = 1024
"""Servers that the router may add at run time, for which descriptors are kept free: beyond that many, HAProxy's choice
of a server costs more than the rest of a request."""

SERVERS_SHARE = 32
"""Under a low limit at most one server is reckoned with for so many descriptors, which keeps an eighth of them free."""

PAIRS_PER_SERVER = 2
"""Pairs of descriptors for a server: its health check, a connection that is being closed, idle connections."""

OWN_PAIRS = 32
"""Pairs of descriptors that HAProxy needs for itself: listeners, sockets of master and worker, Runtime API, ring,
connections for lookups, checks of the router, epoll instances and pipes of threads."""

MIN_CONNECTIONS = 8
"""An edge with less room than this cannot do its work."""

FD_HARD_LIMIT = 2 * (MAX_CONNECTIONS + PAIRS_PER_SERVER * SERVERS_ADDED + OWN_PAIRS)
"""Descriptors that HAProxy takes at most: without a limit, a container may grant it a billion, and it allocates memory
for each."""


def open_files_limit() -> int:
    """The hard limit of open files of this process and of those it starts, at most `FD_HARD_LIMIT`."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return FD_HARD_LIMIT if hard == resource.RLIM_INFINITY else min(hard, FD_HARD_LIMIT)


def reserved_pairs(open_files: int, servers: int) -> int:
    """Pairs of descriptors that client connections must leave free: 2 x servers + 32.

    `open_files` is the limit of open files, `servers` the number of servers in HAProxy's file; servers that may be
    added at run time are reckoned with by `SERVERS_ADDED`.
    """
    expected = max(servers, min(SERVERS_ADDED, open_files // SERVERS_SHARE))
    return PAIRS_PER_SERVER * expected + OWN_PAIRS


def connections_within(open_files: int, servers: int) -> int:
    """Client connections at once, of two descriptors each: limit / 2 - 2 x servers - 32.

    Raises ConfigError when that leaves fewer than `MIN_CONNECTIONS`.
    """
    fitting = min(MAX_CONNECTIONS, open_files // 2 - reserved_pairs(open_files, servers))
    if fitting < MIN_CONNECTIONS:
        raise ConfigError(
            "limit of open files",
            open_files,
            f"one that leaves room for {MIN_CONNECTIONS} clients beside {servers} servers",
        )
    return fitting
