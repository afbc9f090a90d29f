"""Revisions of the live policy: every document that was live, who put it and why.

`PolicyHistory` owns the revisions, the oldest gone first beyond `MAX_REVISIONS`. Numbers count from 1 and are never
used twice, from one life of the router to the next too where there is a state file. Each edge counts its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from pointsman.contract.config import join
from pointsman.router.fleet.saved import PolicyRevision

MAX_REVISIONS = 256

MAX_SAVED = 64
"""Revisions that are saved for the next life of the router."""

MAX_SAVED_BYTES = 1024 * 1024
"""Size of all saved revisions together, as JSON; the state file is written whole with each change of the fleet."""

WHY_MAX = 500
"""Characters of a reason."""

AUTHOR_MAX = 128
"""Characters of an author; names of tokens are shorter, and an author may come from another edge."""


def etag_of(document: Mapping[str, Any]) -> str:
    """Strong entity tag of a document; equal documents have equal tags on every router."""
    canonical = msgspec.json.encode(document, order="sorted")
    return f'"{hashlib.blake2b(canonical, digest_size=8).hexdigest()}"'


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

    def __repr__(self) -> str:
        return f"PolicyHistory({len(self)} revisions up to {self.latest})"

    def get(self, revision: int) -> PolicyRevision | None:
        """The revision of a number; None for one that is too old or never was."""
        return self._revisions.get(revision)

    def live_before(self, revision: int) -> PolicyRevision | None:
        """The revision that was live before another; None where none is known."""
        return next((known for known in reversed([*self]) if known.live and known.revision < revision), None)

    def add(
        self, document: Mapping[str, Any], at_s: float, *, author: str = "", why: str = "", live: bool = True
    ) -> PolicyRevision:
        """Add a document, all defaults filled in.

        at_s: seconds since 1970.
        live: whether it becomes live; False for one that a rollout tries.
        """
        self.latest += 1
        added = PolicyRevision(
            revision=self.latest,
            document=dict(document),
            at_s=at_s,
            author=author[:AUTHOR_MAX],
            why=why[:WHY_MAX],
            live=live,
        )
        self._revisions[self.latest] = added
        if len(self._revisions) > MAX_REVISIONS:
            del self._revisions[next(iter(self._revisions))]
        return added

    def saved(self) -> list[PolicyRevision]:
        """The newest revisions that fit into the state file, oldest first."""
        kept: list[PolicyRevision] = []
        room = MAX_SAVED_BYTES
        for revision in reversed([*self][-MAX_SAVED:]):
            room -= len(msgspec.json.encode(revision))
            if room < 0 and kept:
                break
            kept.append(revision)
        return kept[::-1]

    def restore(self, saved: Iterable[PolicyRevision]) -> None:
        """Put saved revisions in place of those of this life, of which no number was shown to anybody yet."""
        revisions = {revision.revision: revision for revision in sorted(saved, key=lambda one: one.revision)}
        if revisions:
            self._revisions = revisions
            self.latest = max(revisions)


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Compare two documents: by the dotted path of each value that differs, what stood and stands there.

    A value that is absent on one side is `msgspec.UNSET` there.
    """
    old, new = flatten(before), flatten(after)
    keys = sorted(old.keys() | new.keys())
    found = {key: (old.get(key, msgspec.UNSET), new.get(key, msgspec.UNSET)) for key in keys}
    return {key: (one, other) for key, (one, other) in found.items() if one != other}


def flatten(document: Mapping[str, Any], at: str = "") -> dict[str, Any]:
    """The values of a document by their dotted paths; a list is one value, and so is an empty mapping."""
    flat: dict[str, Any] = {}
    for key, value in document.items():
        path = join(at, str(key))
        flat |= flatten(value, path) if isinstance(value, Mapping) and value else {path: value}
    return flat
