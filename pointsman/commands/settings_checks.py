"""Checks of `pointsman doctor` on what a router's settings name: sockets, files, the store.

They are done on this machine and as this user: a file that the router's own user may read may be closed to another one,
and then the finding says so.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pointsman.commands.finding import Finding, unknown, well, wrong
from pointsman.contract.config import read_mapping
from pointsman.contract.errors import ConfigurationError

CONNECT_S = 2.0

SKEW_MAX_S = 2.0
"""Difference of two clocks that is no fault: leases are renewed three times before they end."""

SET_CLOCK = "timedatectl set-ntp true, or another time service, on both machines"

SECRET_FILES = ("admin.tokens_file", "admin.tls_key")
"""Settings that name files nobody else may read."""

SOCKETS = ("edge.admin_socket", "edge.master_socket")
NEAR_SOCKETS = ("spop.path", "lookup.path", "ring.path")

Settings = Mapping[str, Any]
"""Values of a router's settings by dotted key."""


def flat(tree: Mapping[str, Any], at: str = "") -> dict[str, Any]:
    """The values of nested settings by dotted key."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        key = f"{at}.{name}" if at else name
        found[key] = value
        if isinstance(value, Mapping):
            found |= flat(value, key)
    return found


def settings_findings(settings: Settings, *, wall: Callable[[], float]) -> Iterator[Finding]:
    """All checks of what the settings name. wall: seconds since 1970."""
    for key in SOCKETS:
        yield check_socket(key, settings.get(key) or "", starts="HAProxy")
    for key in NEAR_SOCKETS:
        if settings.get(key):
            yield check_socket(key, settings[key], starts="the router")
    yield check_state_file(settings.get("state_file") or "")
    for key in SECRET_FILES:
        if settings.get(key):
            yield check_secret(key, Path(settings[key]))
    if settings.get("admin.tokens_file"):
        yield from check_tokens(Path(settings["admin.tokens_file"]))
    yield from check_store(settings.get("shared.url") or "", settings.get("shared.tls_ca") or "", wall=wall)


def check_socket(key: str, path: str, *, starts: str) -> Finding:
    """Whether a Unix socket is there and answers.

    path: empty for none. starts: who listens on it.
    """
    subject = key.rpartition(".")[2].replace("_", " ") if key in SOCKETS else f"socket {key.partition('.')[0]}"
    if not path:
        return unknown(subject, f"none: {key} is empty")
    try:
        mode = Path(path).stat().st_mode
    except OSError as error:
        return wrong(subject, f"{path}: {error.strerror}", f"start {starts}, or set {key}")
    if not stat.S_ISSOCK(mode):
        return wrong(subject, f"{path} is no socket", f"set {key}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(CONNECT_S)
        try:
            probe.connect(path)
        except PermissionError:
            return wrong(subject, f"{path}: {whose(path)}; this user may not connect", "run this as the router's user")
        except OSError as error:
            return wrong(subject, f"{path}: nobody listens ({error.strerror})", f"start {starts}")
    if mode & stat.S_IWOTH:
        return wrong(subject, f"{path}: anybody on this machine may write to it", f"chmod o-w {path}")
    return well(subject, f"{path} answers")


def whose(path: str) -> str:
    """Owner and mode of a file in words."""
    found = Path(path).stat()
    return f"uid {found.st_uid}, mode {stat.S_IMODE(found.st_mode):04o}"


def check_state_file(path: str) -> Finding:
    """Whether a router may keep its state. path: empty for none."""
    if not path:
        return unknown("state file", "none: registrations and policy are forgotten at a restart", "set state_file")
    place = Path(path)
    if not place.parent.is_dir():
        return wrong("state file", f"{place.parent}: no such folder", f"mkdir -p {place.parent}")
    if not os.access(place.parent, os.W_OK | os.X_OK):
        said = f"{place.parent} ({whose(str(place.parent))}) is closed to this user (uid {os.getuid()})"
        return wrong("state file", said, f"run this as the router's user, or chown {place.parent}")
    if place.exists() and not os.access(place, os.R_OK | os.W_OK):
        return wrong("state file", f"{path} ({whose(path)}) is closed to this user", f"chown {path}")
    return well("state file", f"{path} can be written")


def check_secret(key: str, path: Path) -> Finding:
    """Whether nobody but its owner may read a file of secrets."""
    subject = key.rpartition(".")[2].replace("_", " ")
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return wrong(subject, f"{path}: {error.strerror}", f"set {key}")
    if mode & (stat.S_IRWXO | stat.S_IWGRP):
        return wrong(subject, f"{path}: {whose(str(path))}: others may read or change it", f"chmod 640 {path}")
    return well(subject, f"{path}: {whose(str(path))}")


def check_tokens(path: Path) -> Iterator[Finding]:
    """Whether the list of tokens can be read; nothing for a file that is not there."""
    if not path.exists():
        return
    try:
        count = len(read_mapping(path, str(path)).get("tokens") or ())
    except ConfigurationError as error:
        yield wrong("tokens", str(error), "mend the file; routers go on with the tokens they read last")
        return
    yield well("tokens", f"{count} in {path}")


def check_store(url: str, tls_ca: str, *, wall: Callable[[], float]) -> Iterator[Finding]:
    """Whether the store that edges share answers, and how far its clock is from this one."""
    if not url:
        yield unknown("store", "none: this edge shares nothing")
        return
    if "***" in url:
        yield unknown("store", "its password is not known here", "name the router's file with --config")
        return
    from pointsman.router.process.store_url import without_password

    shown = without_password(url)
    try:
        store_s, wall_s = asyncio.run(_clock_of(url, tls_ca, wall))
    except Exception as error:  # whatever the library of a store raises
        yield wrong("store", f"{shown}: {error}", "start it, or set shared.url")
        return
    yield well("store", f"{shown} answers")
    if store_s:
        yield check_clock("clock of the store", store_s - wall_s)


async def _clock_of(url: str, tls_ca: str, wall: Callable[[], float]) -> tuple[float, float]:
    """The store's time and this machine's, in seconds since 1970; 0 for a store of several machines."""
    from pointsman.router.edges.redis_store import connect

    client = connect(url, timeout_s=CONNECT_S, tls_ca=tls_ca)
    try:
        await client.ping()
        before_s = wall()
        said = await client.time()
        between_s = (before_s + wall()) / 2
    finally:
        await client.aclose()
    return (said[0] + said[1] / 1e6, between_s) if isinstance(said, tuple | list) else (0.0, between_s)


def check_clock(subject: str, skew_s: float, *, exact_s: float = 0.0) -> Finding:
    """Whether two clocks agree. exact_s: how exactly the other clock is known."""
    if abs(skew_s) > SKEW_MAX_S + exact_s:
        side = "ahead of" if skew_s > 0 else "behind"
        return wrong(subject, f"{abs(skew_s):.1f} s {side} this machine's", SET_CLOCK)
    return well(subject, f"agrees within {max(abs(skew_s), exact_s):.1f} s")


def now_s() -> float:
    """Seconds since 1970."""
    return time.time()
