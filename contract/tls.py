"""TLS contexts of clients, most of which speak plain HTTP to a neighbour.

httpx reads all certificate authorities for each client it makes: 45 ms in which the event loop answers no lookup. What
is asked over plain HTTP alone needs none.

Clients trust the authorities of the system. An installation with an authority of its own names its file in the
environment variable `SSL_CERT_FILE`, which OpenSSL reads itself, and then trusts that one alone.
"""

from __future__ import annotations

import ssl
from functools import cache
from pathlib import Path

import httpx


def tls_for(*urls: str) -> ssl.SSLContext:
    """`verify` of an HTTP client for these URLs: with authorities where one of them is HTTPS, else with none at all."""
    return trusting() if any(url.startswith("https://") for url in urls) else _trusts_nobody()


@cache
def trusting() -> ssl.SSLContext:
    """The context of clients that check certificates; one for all of them, so that the authorities are read once."""
    paths = ssl.get_default_verify_paths()
    if paths.cafile or (paths.capath and any(Path(paths.capath).iterdir())):
        return ssl.create_default_context()
    return httpx.create_ssl_context(trust_env=False)  # a slim container, without authorities of its own


@cache
def _trusts_nobody() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
