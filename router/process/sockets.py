"""Listening sockets: bound before anything is served, so that an address that is taken is one clear sentence."""

from __future__ import annotations

import socket
import stat
from contextlib import ExitStack
from pathlib import Path

from pointsman.router.errors import SettingsError
from pointsman.router.process.listen import Listen

BACKLOG = 1024

_EXPECTED = "an address that this process can listen on"


def bind_tcp(name: str, address: Listen) -> tuple[socket.socket, Listen]:
    """A listening socket and the address it got; `name` is the setting. Raises SettingsError."""
    try:
        family, kind, proto, _, sockaddr = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind, proto)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(sockaddr)
        sock.listen(BACKLOG)
    except OSError as error:
        raise SettingsError(name, str(address), _EXPECTED, f"cannot listen on {address}: {error.strerror}") from error
    sock.setblocking(False)
    return sock, Listen(address.host, sock.getsockname()[1])


def bind_unix(name: str, path: str) -> socket.socket:
    """A listening Unix socket that only this user may open, in place of one a dead process left. Raises SettingsError.

    The file appears under its name only once it is listened on: a peer never meets one that refuses.
    """
    place = Path(path)
    fresh = place.with_name(f"{place.name}~")
    with ExitStack() as undo:
        try:
            if _is_taken(place):
                raise SettingsError(name, path, _EXPECTED, f"cannot listen on {path}: another process does")
            sock = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            fresh.unlink(missing_ok=True)
            sock.bind(str(fresh))
            fresh.chmod(0o600)
            sock.listen(BACKLOG)
            fresh.rename(place)
        except OSError as error:
            why = error.strerror or error
            raise SettingsError(name, path, _EXPECTED, f"cannot listen on {path}: {why}") from error
        undo.pop_all()
    sock.setblocking(False)
    return sock


def _is_taken(place: Path) -> bool:
    """Whether a living process listens there. Raises OSError for a file that is no socket."""
    try:
        if not stat.S_ISSOCK(place.stat().st_mode):
            raise FileExistsError(None, "a file that is no socket is in the way")
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0.2)
        try:
            probe.connect(str(place))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
    return True
