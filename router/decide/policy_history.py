"""Revisions of the live policy: every document that was live, who put it and why.

`PolicyHistory` owns the revisions since the router started, the oldest gone first beyond `MAX_REVISIONS`. Numbers count
from 1 and are never used twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

MAX_REVISIONS = 256


class PolicyRevision(msgspec.Struct, frozen=True, kw_only=True):
    """One document that was or is live."""

    revision: int
    document: Mapping[str, Any]
    """All defaults filled in."""
    at_s: float
    """When it became live, in seconds since 1970."""
    author: str = ""
    why: str = ""


class PolicyHistory:
    """The latest revisions."""

    def __init__(self) -> None:
        self._revisions: dict[int, PolicyRevision] = {}
        self.latest = 0
        """Number of the newest revision; 0 before the first."""

    def __len__(self) -> int:
        return len(self._revisions)

    def __iter__(self) -> Iterator[PolicyRevision]:
        """Iterates from the oldest revision to the newest."""
        return iter([*self._revisions.values()])

    def get(self, revision: int) -> PolicyRevision | None:
        """The revision of a number; None for one that is too old or never was."""
        return self._revisions.get(revision)

    def add(self, document: Mapping[str, Any], at_s: float, *, author: str = "", why: str = "") -> PolicyRevision:
        """Add the document that becomes live."""
        self.latest += 1
        added = PolicyRevision(revision=self.latest, document=dict(document), at_s=at_s, author=author, why=why)
        self._revisions[self.latest] = added
        if len(self._revisions) > MAX_REVISIONS:
            del self._revisions[next(iter(self._revisions))]
        return added
