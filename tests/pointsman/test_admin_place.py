"""Where the admin API is asked: URLs as people write them, authorities from a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from pointsman.admin_place import Place
from pointsman.errors import StartError


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ("127.0.0.1:8001", "http://127.0.0.1:8001"),
        ("http://edge-1:8001/", "http://edge-1:8001"),
        ("https://edge-1", "https://edge-1"),
        ("[::1]:8001", "http://[::1]:8001"),
    ],
)
def test_a_url_needs_no_scheme(given: str, asked: str) -> None:
    """`HOST:PORT` is plain HTTP."""
    assert Place(given).base_url == asked


@pytest.mark.parametrize("given", ["", "ftp://x", "http://", "127.0.0.1:port", "http://x:0", "http://[::1"])
def test_what_is_no_url_is_one_sentence(given: str) -> None:
    """It names the option and an example."""
    with pytest.raises(StartError, match=r"^--admin: .*a URL such as http://127.0.0.1:8001 is expected"):
        _ = Place(given).base_url


def test_a_file_without_certificates_is_one_sentence(tmp_path: Path) -> None:
    """Missing, or something else."""
    for path in (tmp_path / "none.pem", tmp_path / "text.pem"):
        if path.name == "text.pem":
            path.write_text("no certificate")
        with pytest.raises(StartError, match=rf"^--ca: {path}: no certificates"):
            Place("https://x", ca=path).verify()
