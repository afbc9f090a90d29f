"""The file of named tokens, as it is at this moment."""

from __future__ import annotations

from pathlib import Path

from pointsman.contract.config import decode, read_mapping
from pointsman.contract.tokens import TokenList, TokenRecord, hash_token
from pointsman.router.errors import SettingsError

MAX_FILE_BYTES = 4 * 1024 * 1024
"""Bytes of the file: 10,000 tokens of some 200 bytes, twice."""


class TokenFile:
    """Named tokens of one file, by the hash of each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._by_hash: dict[str, TokenRecord] = {}

    def __len__(self) -> int:
        return len(self._by_hash)

    def __repr__(self) -> str:
        return f"TokenFile({self.path}, {len(self)} tokens)"

    def find(self, token: str, now_s: float) -> TokenRecord | None:
        """The record of a token that is listed and has not expired. `now_s` is in seconds since 1970.

        The hash of a guess tells nothing about how near the guess was, so a look into a table is as good as a
        comparison in constant time.
        """
        record = self._by_hash.get(hash_token(token))
        if record is None or (record.expires is not None and record.expires.timestamp() <= now_s):
            return None
        return record

    def read(self) -> None:
        """Take the tokens that the file has now. Raises SettingsError when it cannot be used; nothing changes then."""
        source = str(self.path)
        try:
            size = self.path.stat().st_size
        except OSError:
            size = 0  # reading says why
        if size > MAX_FILE_BYTES:
            raise SettingsError("", None, f"at most {MAX_FILE_BYTES} bytes", f"has {size} bytes", source)
        document = read_mapping(self.path, source, error=SettingsError)
        records = decode(document, TokenList, source=source, error=SettingsError).tokens
        self._by_hash = {record.sha256: record for record in records}
