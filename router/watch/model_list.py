"""A server's `/v1/models` (OpenAI's list of models): bytes -> names and cards. Pure.

vLLM marks a LoRA adapter by a `parent`, the name of its base model; every other card is a model, and cards with
the same `root` are names of one model. Cards are kept as they came, so that whatever a server says of its models
(`max_model_len`, `permission`) reaches those who ask the edge.
"""

from __future__ import annotations

from typing import Any

import msgspec

from pointsman.contract.registration import ModelName
from pointsman.router.errors import ScrapeError
from pointsman.router.fleet.replica import ServedNames

MAX_CARDS = 4096
"""Models and adapters of one server."""


class _Card(msgspec.Struct):
    id: ModelName
    root: str | None = None
    parent: str | None = None


class _List(msgspec.Struct):
    data: list[dict[str, Any]]


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """Models and adapters in a server's list."""

    names: ServedNames
    cards: dict[str, dict[str, Any]]
    """Card by name, as the server gave it."""


def read_models(body: bytes) -> ModelList:
    """Reads a list. Raises ScrapeError when it is none."""
    try:
        cards = msgspec.json.decode(body, type=_List).data
        known = [msgspec.convert(card, _Card) for card in cards]
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ScrapeError(f"not a list of models: {error}") from error
    if len(cards) > MAX_CARDS:
        raise ScrapeError(f"{len(cards)} models, at most {MAX_CARDS} are expected")
    return ModelList(
        names=ServedNames(
            models={card.id: card.root or card.id for card in known if not card.parent},
            adapters=frozenset(card.id for card in known if card.parent),
        ),
        cards=dict(zip((card.id for card in known), cards, strict=True)),
    )
