"""Addresses to listen on, as settings give them."""

from __future__ import annotations

import ipaddress
from typing import Annotated

import msgspec

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class Listen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A TCP address to listen on; port 0 lets the system pick."""

    host: str = "127.0.0.1"
    """IP address or host name to listen on."""
    port: Port = 0
    """TCP port to listen on; 0 lets the system pick one."""

    @property
    def is_loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class NearListen(Listen, frozen=True, forbid_unknown_fields=True):
    """An address that HAProxy on the same host connects to: TCP, or a Unix socket, which costs both sides less."""

    path: str = ""
    """Path of a Unix socket to listen on instead of TCP, created with mode 0600; `host` and `port` are then ignored."""

    def __str__(self) -> str:
        return f"unix@{self.path}" if self.path else super().__str__()
