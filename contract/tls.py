"""TLS contexts of HTTP clients, most of which speak plain HTTP to a neighbour.

httpx reads all certificate authorities for each client it makes: 45 ms in which the event loop answers no lookup. What
is asked over plain HTTP alone needs none.
"""

from __future__ import annotations

import ssl
from functools import cache


def tls_for(*urls: str) -> ssl.SSLContext | bool:
    """`verify` of an HTTP client for these URLs: the usual authorities where one of them is HTTPS, else none at all."""
    return True if any(url.startswith("https://") for url in urls) else _trusts_nobody()


@cache
def _trusts_nobody() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
