"""Aliases by name, and the version that each session began with.

`AliasTable` owns both. A new session's version is drawn by the hash of alias and session against the weights, so every
edge draws the same one without asking. What is drawn is remembered, shared between edges and saved as pins are: a
session keeps its version whatever the weights become. Only one that was withdrawn, is no version any more, or has no
replica left, leaves its sessions to others.

A request without a session is drawn by its prompt's head where prefix keys tell it, else by its own id.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from xxhash import xxh64_intdigest

from pointsman.router.documents.book import Book
from pointsman.router.fleet.sessions import MAX_SESSIONS, SessionTable
from pointsman.router.tenancy.aliases import Alias
from pointsman.router.tenancy.records import read_document

KIND = "alias"

HASH_SEED = 11
"""Apart from the hashes by which policies place sessions and rollouts of policies choose them."""

HEAD_KEYS = 24
"""Prefix keys that stand for a request without a session: 16 KiB of its prompt. Fewer would draw the same version for
all that have a system prompt in common; more would draw anew with each turn of a longer conversation."""

_RANGE = 2**64


class AliasTable:
    """Aliases that have a document, and their sessions."""

    def __init__(self, book: Book, *, max_sessions: int = MAX_SESSIONS) -> None:
        self.by_name: dict[str, Alias] = {}
        """For others to read."""
        self._bounds: dict[str, tuple[tuple[int, str], ...]] = {}
        """By alias: the upper end of each version's part of the hashes, and its model; the stable one comes last."""
        self.sessions = SessionTable(max_sessions=max_sessions)
        """Model that each session began with, by `session_key`, in place of a replica."""
        self.begun: Counter[tuple[str, str]] = Counter()
        """Sessions that began at this edge, by alias and model."""
        self.moved: Counter[str] = Counter()
        """Times a session of an alias changed its version at this edge."""
        self.recomputed: Counter[str] = Counter()
        """Prompt tokens by alias that were computed again because of a rollout."""
        self.has_replicas: Callable[[str, str], bool] = lambda model, name: True
        """Whether a replica takes requests for a model that ask for it by an alias."""
        self.on_changed: list[Callable[[], None]] = []
        """Called once an alias changed."""
        book.read_by(KIND, self._read)

    def __len__(self) -> int:
        return len(self.by_name)

    def __iter__(self) -> Iterator[Alias]:
        """Iterates over the aliases, by name."""
        return iter([self.by_name[name] for name in sorted(self.by_name)])

    def __repr__(self) -> str:
        return f"AliasTable({', '.join(sorted(self.by_name))})"

    def get(self, name: str) -> Alias | None:
        """The alias of a name; None where there is none."""
        return self.by_name.get(name)

    def by_stable_model(self) -> dict[str, list[str]]:
        """The names of aliases by the model of their stable version."""
        found: dict[str, list[str]] = {}
        for alias in self:
            found.setdefault(alias.stable, []).append(alias.name)
        return found

    def stood_for(self) -> Iterator[tuple[str, str]]:
        """Each alias with each of its models, the stable one last."""
        return ((alias.name, version.model) for alias in self for version in reversed(alias.versions))

    # Choosing

    def choose(self, name: str, session: str, keys: Sequence[int], request_id: str, asked: str = "") -> str:
        """The model that serves a request for an alias that is here; nothing is remembered of it.

        session: of the request; empty without one.
        keys: prefix keys of its prompt, not scoped.
        asked: version that the request names, which counts where the alias allows it.
        """
        alias = self.by_name[name]
        if asked and alias.override and alias.version(asked) is not None:
            return asked
        model = self.began(name, session) if session else ""
        if not model:
            model = self._draw(name, session, keys, request_id)
        if model != alias.stable and not self.has_replicas(model, name):
            return alias.stable
        return model

    def began(self, name: str, session: str) -> str:
        """The version that a session began with and keeps; empty where it has none."""
        state = self.sessions.state(session_key(name, session))
        if state is None:
            return ""
        version = self.by_name[name].version(state[0])
        return "" if version is None or version.withdrawn else version.model

    def _draw(self, name: str, session: str, keys: Sequence[int], request_id: str) -> str:
        bounds = self._bounds[name]
        if len(bounds) == 1:
            return bounds[0][1]
        if session:
            whose = session_key(name, session).encode("utf-8", "surrogateescape")
        elif keys:
            whose = name.encode() + keys[min(len(keys), HEAD_KEYS) - 1].to_bytes(8, "little")
        else:
            whose = request_id.encode("utf-8", "surrogateescape")
        drawn = xxh64_intdigest(whose, HASH_SEED)
        return next(model for bound, model in bounds if drawn < bound)

    # Remembering

    def placed(self, name: str, session: str, model: str, now_s: float) -> str:
        """Notes that a request of a session went to a version; the version it had before, empty for a new session."""
        key = session_key(name, session)
        state = self.sessions.state(key)
        self.sessions.pin(key, model, now_s)
        if state is None:
            self.begun[name, model] += 1
            return ""
        self.moved[name] += state[0] != model
        return state[0]

    def forget(self, session: str, before_s: float) -> None:
        """Drops the versions of a session that was not in use after `before_s`."""
        for name in self.by_name:
            key = session_key(name, session)
            state = self.sessions.state(key)
            if state is not None and state[2] <= before_s:
                self.sessions.forget(key)

    # Documents

    def _read(self, name: str, body: dict[str, Any]) -> None:
        if body:
            alias = self.by_name[name] = read_document(KIND, name, body, Alias)
            self._bounds[name] = _bounds(alias)
        elif (gone := self.by_name.pop(name, None)) is not None:
            del self._bounds[name], self.moved[name], self.recomputed[name]
            for version in gone.versions:
                del self.begun[name, version.model]
        for changed in self.on_changed:
            changed()


def session_key(name: str, session: str) -> str:
    """The name of an alias's session in `AliasTable.sessions`; no alias and no session id has a zero byte."""
    return f"{name}\0{session}"


def alias_of(key: str) -> str:
    """The alias that a `session_key` is about."""
    return key.partition("\0")[0]


def session_of(key: str) -> str:
    """The session that a `session_key` is about."""
    return key.partition("\0")[2]


def _bounds(alias: Alias) -> tuple[tuple[int, str], ...]:
    """Versions with a share, each with the end of its part of the hashes.

    The others come from the lower end, so that one whose share grows keeps those that it had.
    """
    bounds, at = [], 0.0
    shares = alias.shares()
    for version in alias.canaries:
        if share := shares[version.model]:
            at += share
            bounds.append((int(at * _RANGE), version.model))
    if shares[alias.stable]:
        bounds.append((_RANGE, alias.stable))
    else:
        bounds[-1] = (_RANGE, bounds[-1][1])
    return tuple(bounds)
