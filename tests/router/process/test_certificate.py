"""The certificate of a listener."""

from __future__ import annotations

from pathlib import Path

import pytest
from certificates import make_certificate

from pointsman.router.errors import SettingsError
from pointsman.router.process.certificate import Certificate


def test_a_chain_and_its_key_are_taken(tmp_path: Path) -> None:
    """From two files, or from one."""
    made = make_certificate(tmp_path)
    Certificate(made.chain, made.key).read()
    both = tmp_path / "both.pem"
    both.write_bytes(made.chain.read_bytes() + made.key.read_bytes())
    certificate = Certificate(both, None)
    certificate.read()
    assert certificate.paths == (both,)


def test_what_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    """A renewal in two steps is read between them, too: the key is still the old one."""
    made, other = make_certificate(tmp_path), make_certificate(tmp_path / "other")
    certificate = Certificate(made.chain, made.key)
    certificate.read()
    made.chain.write_bytes(other.chain.read_bytes())
    with pytest.raises(SettingsError, match=r"admin\.tls_cert: cannot be used: KEY_VALUES_MISMATCH"):
        certificate.read()
    made.key.write_bytes(other.key.read_bytes())
    certificate.read()


@pytest.mark.parametrize("text", [None, "", "no certificate"])
def test_a_file_that_is_no_certificate_is_refused(tmp_path: Path, text: str | None) -> None:
    """By the name of its setting and its path."""
    path = tmp_path / "chain.pem"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SettingsError) as refused:
        Certificate(path, None).read()
    assert refused.value.key == "admin.tls_cert" and str(path) in str(refused.value.value)
