"""A document: what people write once and every edge has, by name, with a version."""

from __future__ import annotations

from typing import Any

import msgspec


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A document that is the same on all edges, such as the live policy. The greater `rank` is right."""

    name: str
    version: int
    body: dict[str, Any]
    """Content of the document; empty for one that was removed."""
    about: dict[str, str] = {}
    """Author and reason of the document, as people gave them when they put it. No part of the rank."""

    def __post_init__(self) -> None:
        try:
            _ = self.rank
        except TypeError as error:
            raise ValueError(f"the document {self.name} is no JSON: {error}") from error

    @property
    def rank(self) -> tuple[int, bytes]:
        return self.version, msgspec.json.encode(self.body, order="sorted")
