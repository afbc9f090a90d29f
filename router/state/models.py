"""The models of the fleet as OpenAI's API lists them: one card for each name somebody serves.

`ModelCatalog` owns the cards that replicas gave of themselves, as they came. The list is made of the registry's names:
a name without a card (nobody was asked, or nobody answered) gets a plain one, and a card of a name that a registration
leaves out is not shown. Written by the scraper, read by the models front.
"""

from __future__ import annotations

from typing import Any

from router.state.replicas import ReplicaRegistry

Card = dict[str, Any]

OWNER = "pointsman"
"""`owned_by` of a card nobody gave."""


class ModelCatalog:
    """Cards by replica."""

    def __init__(self, replicas: ReplicaRegistry, *, created: int) -> None:
        """`created` stands in cards nobody gave: seconds since 1970."""
        self._replicas = replicas
        self._created = created
        self._cards: dict[str, dict[str, Card]] = {}

    def __repr__(self) -> str:
        return f"ModelCatalog({len(self._cards)} replicas)"

    def put(self, replica_id: str, cards: dict[str, Card]) -> None:
        """What a replica says of its models, by name."""
        self._cards[replica_id] = cards

    def forget(self, replica_id: str) -> None:
        """It says nothing any more, or left."""
        self._cards.pop(replica_id, None)

    def cards(self) -> list[Card]:
        """One card a name, by name. Of several replicas' cards the first replica's by id counts: it changes least."""
        found: dict[str, Card] = {}
        for replica in sorted(self._replicas, key=lambda r: r.id):
            given = self._cards.get(replica.id, {})
            for name in replica.names or ():
                if name in found and found[name]["owned_by"] != OWNER:
                    continue
                if (card := given.get(name)) is not None:
                    found[name] = {"owned_by": "", **card}
                elif name not in found:
                    parent = replica.model if name in replica.adapters else None
                    found[name] = self._plain(name, parent)
        return [found[name] for name in sorted(found)]

    def card(self, name: str) -> Card | None:
        """The card of one name; None when nobody serves it."""
        return next((card for card in self.cards() if card["id"] == name), None)

    def _plain(self, name: str, parent: str | None) -> Card:
        card: Card = {"id": name, "object": "model", "created": self._created, "owned_by": OWNER}
        return card | {"root": name, "parent": parent} if parent else card
