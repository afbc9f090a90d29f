"""Features of a request: the values that a policy may read."""

from __future__ import annotations

from enum import IntEnum
from typing import Self

import msgspec


class Priority(IntEnum):
    """Class of a request in the queue: the greater goes first and is shed last."""

    BATCH = 0
    """Fills what is idle, and yields at once."""
    LOW = 1
    NORMAL = 2
    """Class of requests for which nothing says another."""
    HIGH = 3
    CRITICAL = 4

    @classmethod
    def of(cls, name: str) -> Self | None:
        """Return the class of a name, in lower case; None for a name of no class."""
        return cls.__members__.get(name.upper()) if name.islower() else None

    @property
    def label(self) -> str:
        """Name of the class as people write it."""
        return self.name.lower()


BATCH = int(Priority.BATCH)
NORMAL = int(Priority.NORMAL)
"""Plain numbers, which compare in a fraction of the time."""

CLASS_NAMES = tuple("" if priority is Priority.NORMAL else priority.label for priority in Priority)
"""Names of the priority classes as replicas are told them, by number; `NORMAL` is not told."""


class Naming(IntEnum):
    """Source of a request's model name."""

    NAMED = 0
    """The request wants `model`; empty: no particular one."""
    ABSENT = 1
    """A body that was seen whole names none, on a path whose requests have one."""
    UNSEEN = 2
    """The model was not found in the part of the body that HAProxy inspects."""


class RequestFeatures(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Features of one request. Absent values are empty strings, zero or empty tuples."""

    request_id: str
    """The decision id: HAProxy's unique-id, on the wire as `x-request-id`."""
    path: str = ""
    model: str = ""
    alias: str = ""
    """The alias that the request asked for, of which `model` is the version chosen; empty for one that names a
    model."""
    naming: Naming = Naming.NAMED
    generates: bool = True
    """Whether it makes a model generate. What does not (embeddings, scores, transcriptions) is placed by load alone."""
    session: str = ""
    """Session key; empty when the request carries none."""
    tenant: str = ""
    """Tenant of the request's API key; empty without one."""
    key: str = ""
    """Id of the request's API key; empty without one, or where keys are a file of HAProxy's."""
    priority: int = NORMAL
    """Priority class, `BATCH` and up: among requests that wait, the greater goes first and is shed last."""
    deadline_ms: int = 0
    """Milliseconds, from its arrival, within which the client wants the request placed; 0: none."""
    body_bytes: int = 0
    """Announced body length, at most 2^40; of a chunked body what had arrived when HAProxy asked."""
    missing_bytes: int = 0
    """Bytes of the body that are only announced: they had not arrived at the lookup, and may never arrive."""
    max_tokens: int = 0
    """0 when not given or not looked for."""
    prefix_keys: tuple[int, ...] = ()
    """Chained keys of the prompt's prefix, shortest prefix first (unsigned 64 bit), scoped."""
    scope: str = ""
    """Scope of the prefix keys, for the replica to use the same (`pointsman.contract.prefix_keys.SCOPE_HEADER`)."""
    salt: int = 0
    """Hash of the cache salt of a request for an alias, for the scope that its keys have under another version."""
    policy: str = ""
    """Policy asked for by the override header; empty unless that header is enabled and present."""
