"""Named bearer tokens of the admin API: what each may do, and the file in which routers keep their hashes.

A token is 256 random bits, so that nobody finds it by trying, and SHA-256 of it is enough at rest: the slow hashes that
passwords need make the guessing of likely words expensive, and no random token is likely. Whoever reads the file cannot
use what is in it.
"""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime
from enum import StrEnum
from typing import Annotated

import msgspec

from pointsman.contract.errors import ConfigurationError

PREFIX = "pm_"
"""First characters of a token that was made here: scanners of leaked secrets find it by them."""

TOKEN_BYTES = 32

MAX_TOKENS_LISTED = 10_000
"""Tokens in one file: two for each replica of the largest fleet, and room for people."""

TOKEN_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}$"


class TokenRole(StrEnum):
    """A right of the bearer of a token."""

    READ = "read"
    """See everything, change nothing."""
    OPERATE = "operate"
    """See and change everything: replicas, policy, pools."""
    ENGINE = "engine"
    """Register, report and withdraw, as replicas and drivers of fleets do."""


class TokenRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One token as the file lists it. Raises ConfigurationError for one without a role."""

    name: Annotated[str, msgspec.Meta(pattern=TOKEN_NAME_PATTERN)]
    """Name of the token, under which changes are recorded: a person, a script, a fleet."""
    roles: Annotated[tuple[TokenRole, ...], msgspec.Meta(max_length=len(TokenRole))]
    """Roles of the token: `read`, `operate`, `engine`."""
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of the token in hexadecimal digits."""
    expires: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    """Time from which the token is refused, RFC 3339 with its offset from UTC. None: never."""

    def __post_init__(self) -> None:
        if not self.roles:
            raise ConfigurationError("roles", [], f"one or more of {', '.join(TokenRole)}")


class TokenList(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The file: all tokens of a router. Raises ConfigurationError for a name or a hash that is listed twice."""

    tokens: Annotated[list[TokenRecord], msgspec.Meta(max_length=MAX_TOKENS_LISTED)]
    """Tokens. The key is required: a file that is half written must not count as one without tokens."""

    def __post_init__(self) -> None:
        for at, what in (("name", "names"), ("sha256", "hashes")):
            seen: set[str] = set()
            for number, record in enumerate(self.tokens):
                value = getattr(record, at)
                if value in seen:
                    raise ConfigurationError(f"tokens[{number}].{at}", value, f"{what} that are listed once")
                seen.add(value)


def make_token() -> str:
    """Make a token that nobody has had before: 256 random bits of the operating system, as text."""
    return PREFIX + secrets.token_urlsafe(TOKEN_BYTES)


def hash_token(token: str) -> str:
    """Return the SHA-256 of a token, as `TokenRecord.sha256` has it."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
