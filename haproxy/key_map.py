"""HAProxy's map of API keys, changed through the Runtime API while requests read it: no reload.

A key is the SHA-256 of a secret, a value its owner (`TENANT/KEY-ID`). Entries that are added together travel as one
payload (management.txt 9.3, "add map"), a hundred at a time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from pointsman.contract.private_files import MODE, write_private
from pointsman.haproxy.config import KEYS_VARIABLE
from pointsman.haproxy.runtime_api import RuntimeAPI, check_answer, parse_map

ENTRIES_PER_COMMAND = 100
"""Some 15 KB: a payload has to fit the smallest buffer that HAProxy is given here."""

COMMANDS_PER_CALL = 64
"""Other tasks run between two calls."""


def plan_changes(changes: Mapping[str, str | None], known: Mapping[str, str]) -> Iterator[str]:
    """The commands, without the map's name, that make changes to the entries that a map is known to have.

    changes: value by key, None for a key that is to go.
    """
    added: list[str] = []
    for key, value in changes.items():
        if value is None:
            if key in known:
                yield f"del map {{}} {key}"
        elif key not in known:
            added.append(f"{key} {value}")
        elif known[key] != value:
            yield f"set map {{}} {key} {value}"
    for at in range(0, len(added), ENTRIES_PER_COMMAND):
        yield "add map {} <<\n" + "\n".join(added[at : at + ENTRIES_PER_COMMAND]) + "\n"


class KeyMap:
    """The map of one HAProxy."""

    def __init__(self, api: RuntimeAPI, name: str) -> None:
        """name: path of the map's file as HAProxy's configuration writes it."""
        self.name = name
        self._api = api
        self._known: dict[str, str] = {}
        """Entries that HAProxy has, as far as is known here."""

    def __repr__(self) -> str:
        return f"KeyMap({self.name!r}, {len(self._known)} entries)"

    async def replace(self, entries: Mapping[str, str]) -> None:
        """Make the map hold exactly these entries, whatever it holds, and say that it does.

        Raises HAProxyUnavailable, CommandRefused, ProtocolError.
        """
        (answer,) = await self._api.run([f"show map {self.name}"])
        self._known = parse_map(answer)
        gone: dict[str, str | None] = {key: None for key in self._known if key not in entries}
        await self.change({**gone, **entries})
        await self._api.set_variable(KEYS_VARIABLE, 1)

    async def change(self, changes: Mapping[str, str | None]) -> None:
        """Change entries; None takes one out. Raises as `replace` does; the map may have some of the changes then."""
        commands = [command.format(self.name) for command in plan_changes(changes, self._known)]
        for at in range(0, len(commands), COMMANDS_PER_CALL):
            part = commands[at : at + COMMANDS_PER_CALL]
            for command, answer in zip(part, await self._api.answers(part), strict=True):
                check_answer(command.partition("\n")[0], answer)
        for key, value in changes.items():
            if value is None:
                self._known.pop(key, None)
            else:
                self._known[key] = value


def write_map(path: Path, entries: Mapping[str, str]) -> None:
    """Write a map's file, in place of the one before and never half. Raises OSError."""
    staging = path.with_name(path.name + ".new")
    write_private(staging, "".join(f"{key} {value}\n" for key, value in entries.items()).encode(), sync=True)
    staging.replace(path)


def begin_map(path: Path) -> None:
    """Make an empty map file where there is none: HAProxy does not start without it. Raises OSError."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, MODE))
