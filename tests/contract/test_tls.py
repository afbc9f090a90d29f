"""What clients check certificates with."""

import ssl

from pointsman.contract.tls import tls_for


def test_plain_http_reads_no_authorities() -> None:
    """One context for all of them, which would trust nobody."""
    context = tls_for("http://a", "http://b")
    assert isinstance(context, ssl.SSLContext) and not context.get_ca_certs()
    assert tls_for() is context


def test_one_https_url_takes_the_usual_authorities() -> None:
    """Among others that are plain."""
    assert tls_for("http://a", "https://b") is True
