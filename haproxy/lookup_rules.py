"""Settings of an edge that say what HAProxy tells the router about a request.

HAProxy's configuration states them in one process variable, so that a router can say where a request would go that was
never sent. `LookupRules` is the text of that variable and what it says; a key that a router does not know is passed
over, so that either side may be the newer one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

import msgspec

from pointsman.haproxy.config import (
    DEFAULT_GENERATION_PATHS,
    DEFAULT_MODEL_HEADER,
    DEFAULT_SESSION_HEADERS,
    EdgeConfig,
)

RULES_VARIABLE = "proc.pm.rules"
"""Words of the form `key=value` with blanks between them; a list has a word for each of its values."""


class LookupRules(msgspec.Struct, frozen=True, kw_only=True):
    """Rules by which HAProxy makes a lookup; each field is the setting of that name, with its default."""

    session_headers: tuple[str, ...] = DEFAULT_SESSION_HEADERS
    generation_paths: tuple[str, ...] = DEFAULT_GENERATION_PATHS
    model_header: str = DEFAULT_MODEL_HEADER
    priority_header: str = ""
    deadline_header: str = ""
    version_header: str = ""
    path_models: dict[str, str] = {}
    api_keys_map: str = ""
    keys_map: str = ""
    policy_override: bool = False

    @classmethod
    def of(cls, edge: EdgeConfig) -> Self:
        """Return the rules of an edge."""
        return cls(**{name: getattr(edge, name) for name in cls.__struct_fields__})

    def stated(self) -> str:
        """Return the rules as text; no value of an edge's configuration has a blank, a quote or a bracket."""
        return " ".join(f"{key}={value}" for key, value in self._words())

    def _words(self) -> Iterator[tuple[str, str]]:
        yield from (("session_headers", name) for name in self.session_headers)
        yield from (("generation_paths", path) for path in self.generation_paths)
        for key in ("model_header", "priority_header", "deadline_header", "version_header"):
            if header := getattr(self, key):
                yield key, header
        yield from (("path_models", f"{path}={model}") for path, model in self.path_models.items())
        if self.api_keys_map:
            yield "api_keys_map", self.api_keys_map
        if self.keys_map:
            yield "keys_map", self.keys_map
        if self.policy_override:
            yield "policy_override", "1"

    @classmethod
    def read(cls, text: str) -> Self:
        """Return the rules that a text states."""
        values: dict[str, list[str]] = {}
        for word in text.split():
            key, _, value = word.partition("=")
            values.setdefault(key, []).append(value)
        last = {key: found[-1] for key, found in values.items()}
        models = (word.partition("=") for word in values.get("path_models", ()))
        return cls(
            session_headers=tuple(values.get("session_headers", ())),
            generation_paths=tuple(values.get("generation_paths", ())),
            model_header=last.get("model_header", ""),
            priority_header=last.get("priority_header", ""),
            deadline_header=last.get("deadline_header", ""),
            version_header=last.get("version_header", ""),
            path_models={path: model for path, _, model in models},
            api_keys_map=last.get("api_keys_map", ""),
            keys_map=last.get("keys_map", ""),
            policy_override=last.get("policy_override") == "1",
        )
