"""API keys: their secrets, and which of them are in force.

`KeyTable` owns the keys as their documents describe them, and the map from the hash of a secret to its owner that
HAProxy is to have. What always holds: `owners` has exactly the secrets that were in force at the last `step`, and each
change of it is noted in `changes` until somebody takes them. A secret itself is made here once, and kept nowhere.
"""

from __future__ import annotations

import heapq
import secrets
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from pointsman.haproxy.api_keys import hash_of
from pointsman.router.documents.book import Book
from pointsman.router.tenancy.records import ApiKey, read_document
from pointsman.router.tenancy.tenants import TenantTable

KIND = "key"

PREFIX = "pmk-"
"""First characters of a key that was made here: scanners of leaked secrets find it by them."""

ID_CHARACTERS = "abcdefghijkmnpqrstuvwxyz23456789"
ID_LENGTH = 12
SECRET_BYTES = 32

OWNER_SEPARATOR = "/"
"""Between tenant and key id in HAProxy's map; neither has one."""

APART = "/i"
"""End of an owner in HAProxy's map whose tenant is isolated: HAProxy, choosing alone, keeps it apart too."""


class NewSecret(NamedTuple):
    """A secret, in the one moment in which it is known."""

    key: str
    hash: str


def new_id() -> str:
    """Draw the id of a key: 60 bits, no letters that look alike."""
    return "".join(secrets.choice(ID_CHARACTERS) for _ in range(ID_LENGTH))


def new_secret(key_id: str) -> NewSecret:
    """Draw a secret of 256 bits. Its first part is the key's id, so that people know which key they look at."""
    key = f"{PREFIX}{key_id}-{secrets.token_urlsafe(SECRET_BYTES)}"
    return NewSecret(key, hash_of(key))


def owner_of(key: ApiKey, *, isolated: bool) -> str:
    """Return the value of a key in HAProxy's map. isolated: whether its tenant is."""
    return f"{key.tenant}{OWNER_SEPARATOR}{key.id}{APART if isolated else ''}"


class KeyTable:
    """API keys by id."""

    def __init__(self, book: Book, tenants: TenantTable, wall: Callable[[], float]) -> None:
        """wall: seconds since 1970."""
        self._isolated = tenants.isolated
        self._known_isolated: set[str] = set()
        tenants.on_changed.append(self._tenant_changed)
        self._keys: dict[str, ApiKey] = {}
        self._wall = wall
        self.owners: dict[str, str] = {}
        """Owner, as in HAProxy's map, by hash of a secret that is in force; to be read only."""
        self._changes: dict[str, str | None] = {}
        self._ends: list[tuple[float, str]] = []
        """When a secret of a key ends by itself, by time; some of it is out of date."""
        self.on_changed: list[Callable[[str], None]] = []
        """Called with the id of a key whose document changed, or one of whose secrets ended."""
        book.read_by(KIND, self._read)

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[ApiKey]:
        return iter(self._keys.values())

    def get(self, key_id: str) -> ApiKey | None:
        """The key of an id, whether in force or not; None where there is none."""
        return self._keys.get(key_id)

    def find(self, key_hash: str) -> ApiKey | None:
        """The key that one of its secrets in force has this hash; None where there is none."""
        owner = self.owners.get(key_hash)
        return None if owner is None else self._keys.get(owner.split(OWNER_SEPARATOR)[1])

    @property
    def next_end_s(self) -> float | None:
        """When, in seconds since 1970, `step` has something to do; None where nothing ends by itself."""
        return self._ends[0][0] if self._ends else None

    def step(self) -> None:
        """Ends the secrets whose time is over."""
        now_s = self._wall()
        while self._ends and self._ends[0][0] <= now_s:
            _, key_id = heapq.heappop(self._ends)
            key = self._keys.get(key_id)
            if key is not None:
                self._hold(key, (key.hash, key.previous_hash))
                self._told(key_id)

    def take_changes(self) -> dict[str, str | None]:
        """Return the owners by hash that changed since the last call, None for a secret that is not in force."""
        changes, self._changes = self._changes, {}
        return changes

    def _read(self, name: str, body: dict[str, Any]) -> None:
        before = self._keys.get(name)
        if body:
            key = self._keys[name] = read_document(KIND, name, body, ApiKey, named="id")
            old = (before.hash, before.previous_hash) if before is not None else ()
            self._hold(key, (*old, key.hash, key.previous_hash))
        elif before is not None:
            del self._keys[name]
            for ended in (before.hash, before.previous_hash):
                self._set(ended, None)
        self._told(name)

    def _tenant_changed(self, name: str) -> None:
        if (name in self._isolated) == (name in self._known_isolated):
            return
        self._known_isolated ^= {name}
        for key in self._keys.values():
            if key.tenant == name:
                self._hold(key, (key.hash, key.previous_hash))
                self._told(key.id)

    def _hold(self, key: ApiKey, known: tuple[str | None, ...]) -> None:
        """Make `owners` hold the secrets of a key that are in force, and none of the others it ever had."""
        now_s = self._wall()
        in_force = key.hashes(now_s)
        for known_hash in known:
            if known_hash not in in_force:
                self._set(known_hash, None)
        for valid in in_force:
            self._set(valid, owner_of(key, isolated=key.tenant in self._isolated))
        ends_s = key.next_change_s(now_s)
        if ends_s is not None:
            heapq.heappush(self._ends, (ends_s, key.id))

    def _set(self, key_hash: str | None, owner: str | None) -> None:
        if key_hash is None or self.owners.get(key_hash) == owner:
            return
        if owner is None:
            del self.owners[key_hash]
        else:
            self.owners[key_hash] = owner
        self._changes[key_hash] = owner

    def _told(self, key_id: str) -> None:
        for changed in self.on_changed:
            changed(key_id)
