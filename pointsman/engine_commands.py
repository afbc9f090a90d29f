"""`pointsman engine ...`: from flags and a file to a running replica."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar


import yaml

from pointsman.errors import StartError
from router.errors import SettingsError
from router.settings import decode

ADMIN_TOKEN_VARIABLE = "POINTSMAN_ADMIN__TOKEN"

T = TypeVar("T")


def read_settings(into: type[T], *, config: Path | None, assignments: Sequence[str], flags: Mapping[str, Any]) -> T:
    """Settings from file, `KEY=VALUE` assignments and flags, later ones winning. Raises StartError."""
    tree: dict[str, Any] = {}
    if config is not None:
        try:
            loaded = yaml.safe_load(config.read_text())
        except OSError as error:
            raise StartError(f"--config: {config}: cannot be read: {error.strerror}") from None
        except yaml.YAMLError as error:
            raise StartError(f"--config: {config}: not YAML: {error}") from None
        if not isinstance(loaded, dict | None):
            raise StartError(f"--config: {config}: a mapping is expected")
        tree.update(loaded or {})
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise StartError(f"--set: {assignment!r}: KEY=VALUE is expected")
        tree[key] = yaml.safe_load(value)
    tree.update({key: value for key, value in flags.items() if value not in (None, "", [])})
    try:
        return decode(tree, into, dict.fromkeys(tree, "engine settings"))
    except SettingsError as error:
        raise StartError(str(error)) from None
