"""Documents that flags name: mappings in YAML or JSON files; and policies, also given by name or inline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pointsman.errors import StartError
from pointsman.router.errors import SettingsError
from pointsman.router.process import documents

SUFFIXES = (".yaml", ".yml", ".json")
"""What tells a policy's file from its name."""


def read_mapping(path: Path, flag: str = "--config") -> dict[str, Any]:
    """The mapping in the file a flag names, empty for an empty file. Raises StartError."""
    try:
        return documents.read_mapping(path, f"{flag}: {path}")
    except SettingsError as error:
        raise StartError(str(error)) from None


def read_policy(name: str, flag: str) -> dict[str, Any] | None:
    """The policy document in the file a flag names; None when it names no file. Raises StartError."""
    path = Path(name)
    return read_mapping(path, flag) if path.suffix in SUFFIXES else None


def policy_document(value: str | None) -> dict[str, Any] | None:
    """A policy flag: a name, a file, or an inline document. Raises StartError."""
    if value is None:
        return None
    text = value.strip()
    if not text.startswith("{"):
        document = read_policy(text, "--policy")
        return {"policy": text} if document is None else document
    try:
        inline: dict[str, Any] = documents.parse_value(text, "--policy")
    except SettingsError as error:
        raise StartError(str(error)) from None
    return inline
