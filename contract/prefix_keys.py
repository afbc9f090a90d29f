"""Prefix keys: a prompt's bytes -> the chain of 64-bit numbers that name its prefixes.

Key i is `xxh64(chunk i, seed = key i-1)`, the first with seed 0, so it names the whole prefix up to the end of chunk i:
two bodies share key i exactly when they share every byte up to there. Chunks are fine at the head and coarser later;
only full chunks count. The chain starts at the first of the quoted keys in `PROMPT_KEYS`, wherever it stands: model,
user or request ids before it do not shift the chain. A body without any of them has no keys.

This is the Python twin of haproxy/lua/pointsman.lua, which makes the same keys inside HAProxy. The table of chunks
stands once on each side, and tests/haproxy/golden/prefix_keys.json holds them together.

**Scope.** The same bytes make another KV below another model, LoRA adapter, cache salt or tenant. So keys are *scoped*
before anybody keeps or looks for them: 64 bits of murmur3 over these names are folded into each key, by the router,
which sends them along to the replica (`x-pointsman-scope`), and by the replica itself for requests that come without.

Leaf module: xxhash and mmh3 only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import accumulate

from mmh3 import hash64
from xxhash import xxh64, xxh64_intdigest

CHUNKS = ((16, 512), (24, 1024), (32, 2048), (56, 4096))
"""(count, bytes): 512 B steps for 8 KiB, then 1 KiB steps to 32 KiB, 2 KiB to 96 KiB, 4 KiB to 320 KiB."""

CHUNK_BYTES = tuple(size for count, size in CHUNKS for _ in range(count))
BOUNDARIES = tuple(accumulate(CHUNK_BYTES))
"""Offset from the start of the prompt at which key i ends, in bytes."""

MAX_KEYS = len(CHUNK_BYTES)
PROMPT_KEYS = (b'"messages"', b'"prompt"', b'"input"', b'"system"', b'"tools"')

_PROMPT_HEAD_BYTES = 4096
_LONGEST_PROMPT_KEY = max(map(len, PROMPT_KEYS))


def _first_prompt_key(body: bytes) -> int:
    return min((at for key in PROMPT_KEYS if (at := body.find(key)) >= 0), default=-1)


def prompt_start(body: bytes) -> int:
    """Offset of the first prompt key in `body`, or -1."""
    # The head alone decides in nearly every request; five searches of a long body cost more than hashing it.
    start = _first_prompt_key(body[:_PROMPT_HEAD_BYTES])
    return start if start >= 0 or len(body) <= _PROMPT_HEAD_BYTES else _first_prompt_key(body)


def _chain(prompt: memoryview) -> Iterator[int]:
    key = at = 0
    size = len(prompt)
    for chunk in CHUNK_BYTES:
        if at + chunk > size:
            return
        key = xxh64_intdigest(prompt[at : at + chunk], key)
        at += chunk
        yield key


def prefix_keys(body: bytes, limit: int = MAX_KEYS) -> tuple[int, ...]:
    """The keys of `body`, shortest prefix first, unsigned; at most `limit`, never more than `MAX_KEYS`."""
    start = prompt_start(body)
    if start < 0:
        return ()
    return tuple(key for key, _ in zip(_chain(memoryview(body)[start:]), range(limit), strict=False))


SCOPE_HEADER = "x-pointsman-scope"
"""The scope of a request in 16 hexadecimal digits; where tenants are kept apart, the tenant behind a space."""

MAX_SCOPES = 4096
"""Scopes remembered: models and adapters are few, salts may be one for each user."""


def salt_of(cache_salt: str) -> int:
    """Hash that stands for a cache salt in a scope; 0 for none."""
    return xxh64_intdigest(cache_salt.encode("utf-8", "surrogatepass")) if cache_salt else 0


@lru_cache(maxsize=MAX_SCOPES)
def scope_of(model: str, salt: int = 0, tenant: str = "") -> int:
    """64 bits that name whose keys they are; 0 where nothing is known of that. `salt` is `salt_of` a cache salt."""
    if not (model or salt or tenant):
        return 0
    name = model.encode("utf-8", "surrogateescape")
    whose = salt.to_bytes(8, "little") + len(name).to_bytes(4, "little") + name
    return hash64(whose + tenant.encode("utf-8", "surrogateescape"), signed=False)[0]


def scoped(keys: Iterable[int], scope: int) -> list[int]:
    """The keys as they are kept and looked for."""
    return [key ^ scope for key in keys]


class KeyStream:
    """The keys of a body that arrives in pieces, the same as `prefix_keys` of the whole; no piece is kept."""

    __slots__ = ("_carry", "_hash", "_key", "_left", "_start", "body_bytes", "keys")

    def __init__(self) -> None:
        self.keys: list[int] = []
        """The keys of what came in so far."""
        self.body_bytes = 0
        self._start = -1
        self._carry = b""
        """The end of what came in, too short to be told from the beginning of a prompt key."""
        self._hash: xxh64 | None = None
        self._left = 0
        """Bytes its chunk still wants."""
        self._key = 0

    @property
    def prompt_bytes(self) -> int:
        """From the start of the chain on; 0 while there is none."""
        return self.body_bytes - self._start if self._start >= 0 else 0

    def feed(self, piece: bytes) -> None:
        """Takes the next bytes of the body."""
        before = self.body_bytes
        self.body_bytes += len(piece)
        if self._start >= 0:
            self._digest(memoryview(piece))
            return
        seen = self._carry + piece if self._carry else piece
        at = prompt_start(seen)
        if at < 0:
            self._carry = seen[1 - _LONGEST_PROMPT_KEY :]
            return
        self._start = before - len(self._carry) + at
        self._carry = b""
        self._digest(memoryview(seen)[at:])

    def _digest(self, piece: memoryview) -> None:
        keys = self.keys
        while len(piece) and len(keys) < MAX_KEYS:
            wanted = CHUNK_BYTES[len(keys)]
            if self._hash is None:
                if len(piece) < wanted:
                    self._hash, self._left = xxh64(piece, self._key), wanted - len(piece)
                    return
                self._key = xxh64_intdigest(piece[:wanted], self._key)
                piece = piece[wanted:]
            else:
                part = piece[: self._left]
                self._hash.update(part)
                self._left -= len(part)
                if self._left:
                    return
                self._key, self._hash = self._hash.intdigest(), None
                piece = piece[len(part) :]
            keys.append(self._key)
