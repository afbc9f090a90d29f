"""From a replica's URL to the IP address and port HAProxy connects to, and which addresses a replica may have.

Clients' prompts go to that address, so what is refused here is refused with any token: link-local addresses, where
clouds serve their credentials (169.254.169.254), unless a network of `admin.engine_networks` has them; addresses
outside those networks, where any are set; and URLs that carry a password. The resolved address counts, not the name.

Names resolve in threads of their own: a name server that hangs must not keep the state file from being saved, which
asyncio's default executor does.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import SplitResult, urlsplit

from pointsman.router.errors import RegistrationError, ResolveError

RESOLVE_S = 1.5
"""Seconds that a name server may take; replicas wait 2 s for the answer to their registration."""

START_RESOLVE_S = 30.0
"""Seconds that a name server may take for replicas of the configuration, without which the router does not start."""

RESOLVE_THREADS = 4
"""Names resolved at once; each thread is made when it is needed."""

MAX_RESOLVING = 64
"""Registrations that wait for a name at once, those in threads included. Beyond, they are refused until one is done:
names that do not resolve must not queue before those that do."""

Address = IPv4Address | IPv6Address


def parse_endpoint(url: str) -> tuple[str, int]:
    """Host and port of `http://HOST:PORT[/]`. Raises RegistrationError for any other form."""
    parts = _split(url, ("http",))
    assert parts.hostname is not None and parts.port is not None
    return parts.hostname, parts.port


def _split(url: str, schemes: tuple[str, ...]) -> SplitResult:
    expected = " or ".join(f"{scheme}://HOST:PORT" for scheme in schemes)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise RegistrationError("url", url, expected) from None
    if parts.username is not None or parts.password is not None:
        raise RegistrationError("url", None, expected, "has a user or password")
    if parts.scheme not in schemes or not parts.hostname or not port or parts.path not in ("", "/"):
        raise RegistrationError("url", url, f"{expected}, with a port from 1 to 65535")
    if parts.query or parts.fragment:
        raise RegistrationError("url", url, expected)
    return parts


class EndpointResolver:
    """Resolves and checks the addresses of replicas. `close` when none is asked for any more."""

    def __init__(self, networks: Iterable[str] = ()) -> None:
        """`networks` are the only ones replicas may be in, in CIDR notation; none: everywhere but link-local."""
        self._networks = tuple(ip_network(network) for network in networks)
        self._executor: ThreadPoolExecutor | None = None
        self._resolving = 0

    async def resolve(self, url: str, *, within_s: float = RESOLVE_S) -> tuple[str, int]:
        """IP address and port behind `http://HOST:PORT`: HAProxy does not resolve names of servers added at run time.

        Raises RegistrationError when the URL is malformed, the name not known, or the address not allowed; ResolveError
        when the name server does not answer in time, or too many names wait for it.
        """
        host, port = parse_endpoint(url)
        address = await self._address(url, host, port, within_s)
        self.check(address)
        return str(address), port

    async def check_url(self, url: str) -> None:
        """Raises what `resolve` raises, for a base URL with http or https."""
        parts = _split(url, ("http", "https"))
        assert parts.hostname is not None and parts.port is not None
        self.check(await self._address(url, parts.hostname, parts.port, RESOLVE_S))

    def check(self, address: Address) -> None:
        """Raises RegistrationError for an address a replica may not have."""
        meant = getattr(address, "ipv4_mapped", None) or address
        if meant.is_unspecified or meant.is_multicast:
            raise RegistrationError("url", str(address), "the address of one machine")
        if any(meant in network for network in self._networks):
            return
        if self._networks:
            listed = ", ".join(map(str, self._networks))
            raise RegistrationError(
                "url", str(address), f"an address in the networks of admin.engine_networks ({listed})"
            )
        if meant.is_link_local:
            expected = "another address, or a network with this one in admin.engine_networks"
            raise RegistrationError("url", None, expected, f"{address} is link-local, where clouds serve credentials")

    def close(self) -> None:
        """Ends the threads; names still being resolved are not waited for."""
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)

    async def _address(self, url: str, host: str, port: int, within_s: float) -> Address:
        try:
            return ip_address(host)
        except ValueError:
            pass
        if self._resolving >= MAX_RESOLVING:
            raise ResolveError(f"url: {url!r}: {MAX_RESOLVING} other names are being resolved: register again later")
        if self._executor is None:
            self._executor = ThreadPoolExecutor(RESOLVE_THREADS, thread_name_prefix="resolve")
        self._resolving += 1
        looking_up = asyncio.get_running_loop().run_in_executor(self._executor, _address_of, host, port)
        # Counted until the thread is done, not until its answer is given up.
        looking_up.add_done_callback(self._resolved)
        try:
            async with asyncio.timeout(within_s):
                found = await asyncio.shield(looking_up)
        except TimeoutError:
            raise ResolveError(f"url: {url!r}: {host} was not resolved within {within_s:g} s") from None
        # UnicodeError is a ValueError, and so is a host with a null byte.
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise RegistrationError(
                "url", url, "a host that has an address", f"{host!r} has no address ({reason})"
            ) from error
        return found

    def _resolved(self, looking_up: asyncio.Future[Address]) -> None:
        self._resolving -= 1
        if not looking_up.cancelled():
            looking_up.exception()  # retrieved, so that one given up is not reported as forgotten


def _address_of(host: str, port: int) -> Address:
    """The address of a name to connect to. Raises OSError or ValueError for a name without one."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # IPv4 first: engines listen on 0.0.0.0 far more often than on ::.
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    return ip_address(found[0][4][0])
