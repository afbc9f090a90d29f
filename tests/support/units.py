"""Reads systemd unit files: sections with repeated keys, and command lines as systemd runs them."""

from __future__ import annotations

import shlex
from pathlib import Path


class Unit:
    """One unit file. Keys are `Section.Key`; a key given again adds a value, as it does for Exec lines and filters."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values: dict[str, list[str]] = {}
        section = ""
        for number, line in enumerate(path.read_text().splitlines(), 1):
            text = line.strip()
            if not text or text[0] in "#;":
                continue
            if text.startswith("["):
                section = text[1:-1]
                continue
            key, equals, value = text.partition("=")
            if not (section and equals and not text.endswith("\\")):
                raise ValueError(f"{path}:{number}: {line!r}: Key=Value in a section is expected, on one line")
            self.values.setdefault(f"{section}.{key.strip()}", []).append(value.strip())

    def __getitem__(self, key: str) -> str:
        """The one value of a key. KeyError when it is not there."""
        (value,) = self.values[key]
        return value

    def commands(self, *keys: str) -> list[list[str]]:
        """The command lines of `Service.<key>`, in order, all of them when none is named."""
        named = keys or tuple(key.removeprefix("Service.") for key in self.values if key.startswith("Service.Exec"))
        return [shlex.split(line.lstrip("-@:+!")) for key in named for line in self.values.get(f"Service.{key}", ())]
