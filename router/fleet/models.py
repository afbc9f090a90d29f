"""The models of the fleet as OpenAI's API lists them: one card for each name somebody serves.

`ModelCatalog` owns the cards that replicas gave of themselves, as they came. The list is made of the registry's names:
a name without a card (nobody was asked, or nobody answered) gets a plain one, and a card of a name that a registration
leaves out is not shown. Written by the scraper, read by the models front.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pointsman.router.fleet.replica import ANY_MODEL
from pointsman.router.fleet.replicas import ReplicaRegistry

Card = dict[str, Any]

MAX_CONTEXT_TOKENS = 2**24
"""A card that says more is not believed: the longest context announced so far is 10 million tokens."""

OWNER = "pointsman"
"""`owned_by` of a card nobody gave."""


class ModelCatalog:
    """Cards by replica."""

    def __init__(
        self,
        replicas: ReplicaRegistry,
        *,
        created: int,
        aliases: Callable[[], Iterable[tuple[str, str]]] = tuple,
    ) -> None:
        """created: seconds since 1970, for cards nobody gave.
        aliases: names besides those of replicas, each with a model that it stands for.
        """
        self._replicas = replicas
        self._aliases = aliases
        self._created = created
        self._cards: dict[str, dict[str, Card]] = {}
        self._contexts: dict[str, int] | None = None

    def __repr__(self) -> str:
        return f"ModelCatalog({len(self._cards)} replicas)"

    def put(self, replica_id: str, cards: dict[str, Card]) -> None:
        """Note the model cards of a replica, by name."""
        self._cards[replica_id] = cards
        self._contexts = None

    def forget(self, replica_id: str) -> None:
        """Forget the model cards of a replica that left or has no list any more."""
        if self._cards.pop(replica_id, None) is not None:
            self._contexts = None

    def context_tokens(self, name: str) -> int:
        """Longest context that a replica's card of that name says (`max_model_len`), an adapter's being its model's; of
        all names where nobody has a card of this one, and 0 where no card says any."""
        contexts = self._contexts
        if contexts is None:
            contexts = self._contexts = self._read_contexts()
        return contexts.get(name) or contexts.get(ANY_MODEL, 0)

    def _read_contexts(self) -> dict[str, int]:
        """The longest by name, and of all of them under `ANY_MODEL`."""
        found: dict[str, int] = {}
        for cards in self._cards.values():
            for name, card in cards.items():
                tokens = context_of(card) or context_of(cards.get(card.get("parent") or "", {}))
                for key in (name, ANY_MODEL):
                    found[key] = max(found.get(key, 0), tokens)
        return found

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
        for alias, model in self._aliases():
            if model in found:
                found[alias] = {**found[model], "id": alias, "owned_by": OWNER}
        return [found[name] for name in sorted(found)]

    def card(self, name: str) -> Card | None:
        """The card of one name; None when nobody serves it."""
        return next((card for card in self.cards() if card["id"] == name), None)

    def _plain(self, name: str, parent: str | None) -> Card:
        card: Card = {"id": name, "object": "model", "created": self._created, "owned_by": OWNER}
        return card | {"root": name, "parent": parent} if parent else card


def context_of(card: Card) -> int:
    """`max_model_len` of a card, which may say anything; 0 where it is no length."""
    tokens = card.get("max_model_len")
    return tokens if type(tokens) is int and 0 < tokens <= MAX_CONTEXT_TOKENS else 0
