"""The certificate of a listener, in a TLS context that takes a renewed one while it is in use."""

from __future__ import annotations

import ssl
from pathlib import Path

from pointsman.router.errors import SettingsError


class Certificate:
    """A certificate chain and its key, from PEM files. Connections made after `read` get what it read."""

    def __init__(self, chain: Path, key: Path | None) -> None:
        """key: None where the key stands in the same file as the chain."""
        self._chain = chain
        self._key = key
        self.context = _context()

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files."""
        return (self._chain,) if self._key is None else (self._chain, self._key)

    def read(self) -> None:
        """Take what the files have now. Raises SettingsError for what is no chain with its key; nothing changes then.

        A chain whose key does not fit would leave the context without either, so another one tries first.
        """
        try:
            _context().load_cert_chain(self._chain, self._key)
            self.context.load_cert_chain(self._chain, self._key)
        except (OSError, ssl.SSLError) as error:
            why = error.strerror if not isinstance(error, ssl.SSLError) else error.reason or str(error)
            expected = "a PEM file with the certificate chain, and its key there or in admin.tls_key"
            raise SettingsError("admin.tls_cert", str(self._chain), expected, f"cannot be used: {why}") from error


def _context() -> ssl.SSLContext:
    return ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
