"""Rounds in which one edge repeats all states that it answers for, a part with each heartbeat.

An edge answers for every registration and document, and for the session pins and conversations that it wrote itself or
whose writer is gone. Since each state is repeated in every round, nothing else is needed for a batch that is lost, for
an edge that starts, and for an edge that died before all had read it: the next round makes up for it. Documents of the
book (keys, tenants, aliases) may be many and change seldom: they are repeated in every `BOOK_ROUNDS`th round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from itertools import chain, islice, repeat
from typing import NamedTuple

from pointsman.router.documents.book import Book
from pointsman.router.documents.document import Document
from pointsman.router.edges.documents import SharedDocuments
from pointsman.router.edges.peers import HEARTBEAT_S
from pointsman.router.edges.records import ReplicaRecord
from pointsman.router.edges.registrations import SharedReplicas
from pointsman.router.fleet.sessions import SessionTable
from pointsman.router.kv.conversation import Conversation, Name
from pointsman.router.kv.conversations import Conversations

ROUND_S = 5.0
"""A round starts this often, and is over within this time up to 20,000 states."""

BOOK_ROUNDS = 12
"""A minute between two repetitions of the book. A batch that is lost is rare: streams are read without gaps."""

MIN_PART = 256
MAX_PART = 2048
"""States looked at in one heartbeat. The most keeps a batch of them below 4 ms of its reader's time."""


class Kind(Enum):
    """Kind of a state that a name in a round stands for."""

    REPLICA = 0
    SESSION = 1
    CONVERSATION = 2
    DOCUMENT = 3


class Part(NamedTuple):
    """States to repeat with one heartbeat."""

    starts: bool
    ends: bool
    replicas: list[ReplicaRecord]
    documents: list[Document]
    sessions: list[str]
    conversations: list[Conversation]


NOTHING = Part(False, False, [], [], [], [])


class Rounds:
    """Where the round of this edge is."""

    def __init__(
        self,
        *,
        registrations: SharedReplicas,
        documents: SharedDocuments,
        book: Book,
        sessions: SessionTable,
        conversations: Conversations,
        is_alive: Callable[[str], bool],
    ) -> None:
        """`is_alive` says whether another edge of that id is."""
        self._registrations = registrations
        self._documents = documents
        self._book = book
        self._book_in = 0
        """Rounds until the book is repeated."""
        self._sessions = sessions
        self._conversations = conversations
        self._is_alive = is_alive
        self._left: Iterator[tuple[Kind, Name]] = iter(())
        self._left_count = 0
        self._size = MIN_PART
        self._starts_s = float("-inf")
        self.started = 0
        """Rounds so far."""

    def begin_anew(self) -> None:
        """Start a round with the next part: others lost what the last one said."""
        self._book_in = 0
        self._left_count = 0
        self._starts_s = float("-inf")

    def next_part(self, now_s: float) -> Part:
        """Return the states to repeat with the heartbeat of this moment."""
        starts = not self._left_count
        if starts:
            if now_s < self._starts_s:
                return NOTHING
            self._start(now_s)
        part = Part(starts, self._left_count <= self._size, [], self._documents.agreed() if starts else [], [], [])
        for kind, name in islice(self._left, self._size):
            self._add(part, kind, name)
        self._left_count = max(0, self._left_count - self._size)
        return part

    def _start(self, now_s: float) -> None:
        # Names alone are copied: what a state is, and whether it is still there, is looked up when its turn comes.
        names: dict[Kind, Sequence[Name]] = {
            Kind.REPLICA: self._registrations.ids(),
            Kind.SESSION: self._sessions.names(),
            Kind.CONVERSATION: list(self._conversations.by_name),
            Kind.DOCUMENT: self._book.names() if not self._book_in else (),
        }
        self._book_in = (self._book_in or BOOK_ROUNDS) - 1
        self._left = chain.from_iterable(zip(repeat(kind), some, strict=False) for kind, some in names.items())
        self._left_count = sum(map(len, names.values()))
        parts = ROUND_S / HEARTBEAT_S
        self._size = min(MAX_PART, max(MIN_PART, int(self._left_count / parts) + 1))
        self._starts_s = now_s + ROUND_S
        self.started += 1

    def _add(self, part: Part, kind: Kind, name: Name) -> None:
        if kind is Kind.CONVERSATION:
            known = self._conversations.by_name.get(name)
            if known is not None and not (known.writer and self._is_alive(known.writer)):
                part.conversations.append(known)
        elif kind is Kind.SESSION:
            session = str(name)
            writer = self._sessions.writer(session)
            if writer is not None and not (writer and self._is_alive(writer)):
                part.sessions.append(session)
        elif kind is Kind.DOCUMENT:
            document = self._book.known(str(name))
            if document is not None:
                part.documents.append(document)
        else:
            record = self._registrations.get(str(name))
            if record is not None:
                part.replicas.append(record)
