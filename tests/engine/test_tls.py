"""Certificates are asked for where a URL is HTTPS, and nobody is trusted where none is."""

from __future__ import annotations

import ssl

import pytest

from engine.tls import tls_for as engines
from router.tls import tls_for as routers


@pytest.mark.parametrize("tls_for", [pytest.param(engines, id="engine"), pytest.param(routers, id="router")])
def test_only_https_loads_authorities(tls_for) -> None:
    """A client for plain HTTP that is led to an HTTPS address all the same refuses every certificate there."""
    assert tls_for("http://127.0.0.1:8001", "https://edge.example:8001") is True
    plain = tls_for("http://127.0.0.1:8001")
    assert isinstance(plain, ssl.SSLContext)
    assert plain.verify_mode is ssl.CERT_REQUIRED and plain.check_hostname
    assert plain.cert_store_stats()["x509_ca"] == 0
