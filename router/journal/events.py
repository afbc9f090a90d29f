"""What changed at this edge, when, and by whom: a bounded log in memory, newest last.

`EventLog` owns the events. Parts add what people look for afterwards: calls of the admin API that change something, the
policy that went live, replicas that came, went or changed their state, edges that joined or left. It is no record of
requests. What always holds: ids grow, from one life of the router to the next too, so that whoever remembers the last
id he has seen can ask for what came after.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any

import msgspec

from pointsman.router.journal.followers import Followers
from pointsman.router.process.clock import Clock
from pointsman.router.process.moments import rfc3339

MAX_EVENTS = 1000
"""Events that are kept, some 300 bytes each; one more drops the oldest."""

TEXT_MAX = 500
"""Characters of one event's text; the rest is cut off."""


class EventKind(StrEnum):
    """Subject of an event."""

    AUDIT = "audit"
    """A call of the admin API that changed something, or tried to."""
    POLICY = "policy"
    """The live policy."""
    REPLICA = "replica"
    """A replica came, left, or changed its state."""
    ALIAS = "alias"
    """An alias stands for other models, or for others by weight."""
    EDGE = "edge"
    """Another edge joined, fell silent, or left."""


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Something that changed."""

    id: Annotated[int, msgspec.Meta(description="Number of the event; later events have greater ones.")]
    at: Annotated[
        str, msgspec.Meta(description="Time of the event, RFC 3339.", extra_json_schema={"format": "date-time"})
    ]
    kind: EventKind
    text: Annotated[str, msgspec.Meta(description="The event in one sentence.")]
    author: Annotated[str, msgspec.Meta(description="Name of the token, or of the person, that made the call.")] = ""
    operation: Annotated[str, msgspec.Meta(description="Id of the operation that was called.")] = ""
    path: Annotated[str, msgspec.Meta(description="Path that was called.")] = ""
    status: Annotated[int, msgspec.Meta(description="Status of the answer to the call.")] = 0
    replica: Annotated[str, msgspec.Meta(description="Replica that the event is about.")] = ""
    state: Annotated[str, msgspec.Meta(description="State of the replica or edge from here on.")] = ""
    before: Annotated[str, msgspec.Meta(description="State of the replica or edge until here.")] = ""
    cause: Annotated[str, msgspec.Meta(description="Cause of an ejection.")] = ""
    edge: Annotated[str, msgspec.Meta(description="Edge that the event is about.")] = ""
    policy: Annotated[str, msgspec.Meta(description="Policy that is live from here on.")] = ""
    version: Annotated[str, msgspec.Meta(description="Version of the policy, as its ETag has it.")] = ""
    revision: Annotated[int, msgspec.Meta(description="Revision of the policy, as this edge counts them.")] = 0


class EventLog:
    """The last events of one edge."""

    def __init__(self, *, wall: Clock, max_events: int = MAX_EVENTS) -> None:
        """wall: seconds since 1970."""
        self._wall = wall
        self._events: deque[Event] = deque(maxlen=max_events)
        # Far fewer events than one a millisecond happen in the life of a router: the next one begins beyond.
        self._next_id = int(wall() * 1000)
        self.followers: Followers[Event] = Followers()
        """Readers that are told of each event as it happens."""

    def __len__(self) -> int:
        return len(self._events)

    def __iter__(self) -> Iterator[Event]:
        """Return the events, oldest first."""
        return iter(self._events)

    def __repr__(self) -> str:
        return f"EventLog({len(self)} events, {len(self.followers)} followers)"

    def add(self, kind: EventKind, text: str, **about: Any) -> Event:
        """Add an event. `about` are fields of `Event`; one of another name is a TypeError."""
        event = Event(id=self._next_id, at=rfc3339(self._wall()), kind=kind, text=text[:TEXT_MAX], **about)
        self._next_id += 1
        self._events.append(event)
        self.followers.offer(event)
        return event
