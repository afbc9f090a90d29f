"""The strict charset of HAProxy's configuration: no value that passes can add a line or a word to it.

Each check raises `ConfigError` with the key, the value and what is expected.
"""

from __future__ import annotations

import re
from ipaddress import ip_address

from pointsman.haproxy.errors import ConfigError

MAX_SOCKET_PATH_BYTES = 95
"""A socket address holds 107 bytes, and HAProxy binds under `<path>.<pid>.tmp` before it renames."""

NAME = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
HOST = re.compile(r"\*|[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252})")
FILE = re.compile(r"/[A-Za-z0-9_./@+=-]{1,1023}")
# Of what HTTP lets stand in a header's name, without what HAProxy reads as a comment (#) or, in quotes, a variable ($).
HEADER = re.compile(r"[A-Za-z0-9!&*.^_|~-]{1,64}")
HEADER_EXPECTED = "letters, digits and ! & * . ^ _ | ~ -"
PATH = re.compile(r"/[A-Za-z0-9_./~:@%+-]{0,255}")
MODEL = re.compile(r"[A-Za-z0-9_.:/@+-]{1,256}")
ACCOUNT = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,31}")


def require(ok: bool, key: str, value: object, expected: str) -> None:
    """Refuse a value unless `ok`."""
    if not ok:
        raise ConfigError(key, value, expected)


def check_text(pattern: re.Pattern[str], key: str, value: str, expected: str) -> None:
    """Refuse a text that does not match as a whole."""
    require(pattern.fullmatch(value) is not None, key, value, expected)


def check_range(key: str, value: int, low: int, high: int) -> None:
    """Refuse a number below `low` or above `high`."""
    require(low <= value <= high, key, value, f"a whole number from {low} to {high}")


def check_file(key: str, value: str) -> None:
    """Refuse what is no absolute path."""
    check_text(FILE, key, value, "an absolute path of letters, digits and _ . / @ + = -")


def check_socket(key: str, value: str) -> None:
    """Refuse what is no path of a Unix socket that HAProxy can bind."""
    check_file(key, value)
    require(len(value) <= MAX_SOCKET_PATH_BYTES, key, value, f"a path of at most {MAX_SOCKET_PATH_BYTES} bytes")


def check_host(key: str, value: str) -> None:
    """Raise `ConfigError` unless `value` is an IPv4 or IPv6 address, a host name, or `*`."""
    if ":" in value:
        try:
            ip_address(value)
        except ValueError:
            raise ConfigError(key, value, "an IP address or a host name") from None
    else:
        check_text(HOST, key, value, "an IP address or a host name")


def check_address(key: str, value: str) -> None:
    """Raise `ConfigError` unless `value` is `host:port` or `unix@/absolute/path`."""
    expected = "host:port or unix@/absolute/path"
    if value.startswith("unix@"):
        check_text(FILE, key, value.removeprefix("unix@"), expected)
        return
    host, _, port = value.rpartition(":")
    require(port.isascii() and port.isdigit() and 0 < int(port) < 65536, key, value, expected)
    check_host(key, host.removeprefix("[").removesuffix("]"))
