"""Access to the admin address: its tokens and its certificate, kept as their files say."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pointsman.router.fronts.admin_token import AdminTokens
from pointsman.router.fronts.token_file import TokenFile
from pointsman.router.process.certificate import Certificate
from pointsman.router.process.readiness import Readiness
from pointsman.router.process.watched_files import WatchedFiles
from pointsman.router.settings import AdminSettings

TOKENS = "admin tokens"
CERTIFICATE = "admin certificate"
"""Names of the files in logs, in `/readyz` and as the label of a metric."""


class AdminAccess:
    """Tokens and certificate of one admin address, from its settings."""

    def __init__(self, settings: AdminSettings, *, readiness: Readiness) -> None:
        self._readiness = readiness
        self.files: list[WatchedFiles] = []
        """Files that are looked at while the address is served."""
        self.on_tokens_changed: list[Callable[[], None]] = []
        """Called after the file of tokens was read again: connections that stay open were admitted by the old one."""
        listed = TokenFile(Path(settings.tokens_file)) if settings.tokens_file else None
        if listed is not None:
            self._watch(TOKENS, partial(self._read, listed), listed.path)
        self.tokens = AdminTokens(settings.token, listed)
        self.tls: ssl.SSLContext | None = None
        """Context of every connection; None for plain HTTP."""
        if settings.tls_cert:
            certificate = Certificate(Path(settings.tls_cert), Path(settings.tls_key) if settings.tls_key else None)
            self._watch(CERTIFICATE, certificate.read, *certificate.paths)
            self.tls = certificate.context

    def load(self) -> None:
        """Read the files for the first time. Raises SettingsError when one cannot be used."""
        for files in self.files:
            files.load()

    def file_errors(self) -> dict[str, int]:
        """Changes that could not be used, by the name of the files."""
        return {TOKENS: 0, CERTIFICATE: 0} | {files.part: files.errors for files in self.files}

    def _read(self, listed: TokenFile) -> None:
        listed.read()
        for changed in self.on_tokens_changed:
            changed()

    def _watch(self, part: str, read: Callable[[], None], *paths: Path) -> None:
        self.files.append(WatchedFiles(part, *paths, read=read, readiness=self._readiness))
