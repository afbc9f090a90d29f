"""Changes of replicas, edges and the policy that people look for afterwards, put into the log of events.

`StateWatch` compares states a few times a second, whatever the part is that changed one: a replica's state follows from
registrations, leases, health checks and answers, in four places, and lasts longer than the pause between two looks. A
fleet that comes or goes as a whole is one event, not a thousand that push out everything else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from pointsman.router.core import Core
from pointsman.router.decide.trials import TrialNews
from pointsman.router.documents.document import Document
from pointsman.router.edges.peers import Peers
from pointsman.router.fleet.alias_table import KIND as ALIAS_KIND
from pointsman.router.fleet.replica import Replica
from pointsman.router.journal.events import EventKind, EventLog
from pointsman.router.process.slices import in_slices

EACH_MAX = 10
"""Replicas with the same change at the same look that have an event each; more of them share one."""

NAMED_MAX = 5
"""Replicas that a shared event names."""

_TEXT = {
    "up": "is up",
    "down": "is down: HAProxy's checks fail",
    "starting": "is not checked yet",
    "draining": "is draining",
}


class StateWatch:
    """The states of replicas and edges at the last look; told of each change of the policy."""

    def __init__(self, core: Core, events: EventLog, peers: Peers | None = None) -> None:
        """peers: None for an edge that is alone."""
        self._core = core
        self._replicas = core.replicas
        self._outliers = core.outliers
        self._events = events
        self._peers = peers
        self._known: dict[str, str] = {}
        self._seen = -1
        """Changes of the registry at the last look."""
        self._edges: dict[str, str] = {}
        core.on_policy_changed.append(self._policy_changed)
        core.on_trial_changed.append(self._trial_changed)
        core.book.on_changed.append(self._document_changed)

    def look(self, expired: Collection[str] = ()) -> Iterator[None]:
        """Put what changed since the last look into the log, one slice of the fleet for each item of the iterator.

        expired: replicas whose lease ended meanwhile.
        """
        if self._peers is not None:
            self._look_at_edges(self._peers)
        if self._replicas.memberships.changes == self._seen:
            return
        self._seen = self._replicas.memberships.changes
        changes: dict[tuple[str, str], list[str]] = {}
        states: dict[str, str] = {}
        for replicas in in_slices(self._replicas):
            for replica in replicas:
                state = states[replica.id] = replica.state
                before = self._known.get(replica.id, "")
                if before != state:
                    changes.setdefault((before, state), []).append(replica.id)
            yield
        for replica_id, before in self._known.items():
            if replica_id not in states:
                changes.setdefault((before, ""), []).append(replica_id)
        self._known = states
        for (before, state), ids in changes.items():
            self._changed(before, state, ids, expired)

    def _policy_changed(self) -> None:
        name, policy = self._core.pipeline.policy.name, self._core.policy
        self._events.add(
            EventKind.POLICY,
            f"policy {name} is live, {policy.revision_line}",
            policy=name,
            version=policy.etag,
            revision=policy.revision.revision,
            author=policy.revision.author,
        )

    def _trial_changed(self, news: TrialNews) -> None:
        self._events.add(EventKind.POLICY, news.text, policy=news.policy, author=news.author)

    def _document_changed(self, document: Document) -> None:
        kind, _, name = document.name.partition("/")
        if kind == ALIAS_KIND:
            alias, why = self._core.aliases.get(name), document.about.get("why", "")
            text = f"alias {name} is removed" if alias is None else alias.sentence(why)
            self._events.add(EventKind.ALIAS, text, author=document.about.get("author", ""))

    def _changed(self, before: str, state: str, ids: list[str], expired: Collection[str]) -> None:
        if len(ids) > EACH_MAX:
            named = f"{', '.join(sorted(ids)[:NAMED_MAX])} and others"
            said = self._said(before, state, None).replace("is ", "are ", 1)
            self._events.add(EventKind.REPLICA, f"{len(ids)} replicas {said}: {named}", before=before, state=state)
            return
        for replica_id in ids:
            replica = self._replicas.get(replica_id)
            said = (
                "left: its lease ended" if replica_id in expired and not state else self._said(before, state, replica)
            )
            self._events.add(
                EventKind.REPLICA,
                f"{replica_id} {said}",
                replica=replica_id,
                before=before,
                state=state,
                cause=self._cause(replica) if state == "ejected" else "",
            )

    def _said(self, before: str, state: str, replica: Replica | None) -> str:
        """The end of a sentence that begins with the replica."""
        if not state:
            return "left"
        if not before:
            return f"registered, {state}"
        if state == "ejected":
            ejection = self._outliers.ejection(replica.slot) if replica is not None else None
            return (
                f"is ejected after {ejection.failures} failed answers ({ejection.cause})" if ejection else "is ejected"
            )
        if (before, state) == ("ejected", "up"):
            return "is back: a probe was answered well"
        if (before, state) == ("draining", "up"):
            return "is up and drains no longer"
        return _TEXT.get(state, f"is {state}")

    def _cause(self, replica: Replica | None) -> str:
        ejection = self._outliers.ejection(replica.slot) if replica is not None else None
        return str(ejection.cause) if ejection is not None else ""

    def _look_at_edges(self, peers: Peers) -> None:
        states = {peer.info.edge: "alive" if peer.alive else "silent" for peer in peers}
        before_all, self._edges = self._edges, states
        for peer in peers:
            state, before = states[peer.info.edge], before_all.get(peer.info.edge, "silent")
            if state != before:
                text = "joined" if peer.alive else "left, or fell silent"
                name = peer.info.name or peer.info.edge
                self._events.add(EventKind.EDGE, f"{name} {text}", edge=name, before=before, state=state)
