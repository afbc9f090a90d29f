"""What clients check certificates with."""

import ssl
from pathlib import Path

import pytest
from certificates import make_certificate

from pointsman.contract.tls import tls_for, trusting


def test_plain_http_reads_no_authorities() -> None:
    """One context for all of them, which would trust nobody."""
    context = tls_for("http://a", "http://b")
    assert isinstance(context, ssl.SSLContext) and not context.get_ca_certs()
    assert tls_for() is context


def test_one_https_url_takes_the_usual_authorities() -> None:
    """Among others that are plain."""
    assert tls_for("http://a", "https://b") is trusting()
    assert trusting().verify_mode is ssl.CERT_REQUIRED and trusting().check_hostname


def test_an_authority_of_the_installation_is_named_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`SSL_CERT_FILE` is then the only one that is trusted."""
    made = make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(made.chain))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))
    trusting.cache_clear()
    try:
        (authority,) = trusting().get_ca_certs()
        assert authority["subject"] == ((("commonName", "localhost"),),)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none"))
        trusting.cache_clear()
        assert len(trusting().get_ca_certs()) > 50  # those that httpx brings
    finally:
        trusting.cache_clear()
