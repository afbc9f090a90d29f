"""Certificates for 127.0.0.1 and localhost that sign themselves, made by openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple


class Made(NamedTuple):
    """The files of one certificate. Its chain is also the authority that clients trust."""

    chain: Path
    key: Path


def make_certificate(folder: Path) -> Made:
    """A new certificate with a new key, in this folder."""
    folder.mkdir(exist_ok=True)
    made = Made(folder / "chain.pem", folder / "key.pem")
    command = [
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
        *("-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        *("-keyout", str(made.key), "-out", str(made.chain)),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return made
