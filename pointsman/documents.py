"""Documents that flags name: mappings in YAML or JSON files; and policies, also given by name or inline.

What cannot be read is a `ConfigurationError` that names the flag.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pointsman.contract import config

SUFFIXES = (".yaml", ".yml", ".json")
"""Suffixes that distinguish a policy's file from its name."""


def read_mapping(path: Path, flag: str = "--config") -> dict[str, Any]:
    """The mapping in the file a flag names, empty for an empty file."""
    return config.read_mapping(path, f"{flag}: {path}")


def read_policy(name: str, flag: str) -> dict[str, Any] | None:
    """The policy document in the file a flag names; None when it names no file."""
    path = Path(name)
    return read_mapping(path, flag) if path.suffix in SUFFIXES else None


def policy_document(value: str | None, flag: str = "--policy") -> dict[str, Any] | None:
    """The policy document of a flag: a policy's name, a file, or an inline document; None without the flag."""
    if value is None:
        return None
    text = value.strip()
    if text.startswith("{"):
        inline: dict[str, Any] = config.parse_value(text, flag)
        return inline
    document = read_policy(text, flag)
    return {"policy": text} if document is None else document
