"""Place of the admin API, and the caller it is asked as: the URL, the token and the authority of its certificate.

Apart from the client, so that a command line that asks nothing imports no HTTP client.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from pointsman.errors import StartError

URL_VARIABLE = "POINTSMAN_ADMIN_URL"
TOKEN_VARIABLE = "POINTSMAN_ADMIN__TOKEN"
DEFAULT_URL = "http://127.0.0.1:8001"


@dataclass(frozen=True, slots=True)
class Place:
    """One router's admin API, as a caller reaches it."""

    url: str = DEFAULT_URL
    """URL as it was given, also `HOST:PORT`."""
    token: str = field(default="", repr=False)
    ca: Path | None = None

    @property
    def base_url(self) -> str:
        """Base URL with a scheme and without a slash at its end. Raises StartError for what is no URL."""
        url = (self.url if "://" in self.url else f"http://{self.url}").rstrip("/")
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise StartError(f"--admin: {self.url}: a URL such as {DEFAULT_URL} is expected")
        return url

    def verify(self) -> ssl.SSLContext | bool:
        """Certificate authorities to trust here. Raises StartError for a file that holds none."""
        if self.ca is None:
            from pointsman.contract.tls import tls_for  # which imports an HTTP client

            return tls_for(self.base_url)
        try:
            return ssl.create_default_context(cafile=str(self.ca))
        except OSError as error:  # ssl.SSLError is one
            raise StartError(f"--ca: {self.ca}: no certificates can be read: {error.strerror or error}") from None
