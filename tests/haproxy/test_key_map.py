"""Changes of HAProxy's map of API keys, as commands, and its file."""

import stat
from pathlib import Path

from pointsman.haproxy.key_map import ENTRIES_PER_COMMAND, begin_map, plan_changes, write_map


def test_changes_are_added_set_or_deleted_by_what_the_map_has() -> None:
    """What is there already, or is not there to delete, needs no command."""
    known = {"a": "t/1", "b": "t/2", "c": "t/3"}
    changes = {"a": "t/1", "b": "u/2", "c": None, "d": "t/4", "e": None}
    assert list(plan_changes(changes, known)) == ["set map {} b u/2", "del map {} c", "add map {} <<\nd t/4\n"]


def test_many_entries_travel_in_few_commands() -> None:
    """Each a payload that fits HAProxy's smallest buffer here, with a hash and the longest owner in each line."""
    owner = f"{'t' * 64}/{'i' * 12}"
    changes: dict[str, str | None] = {f"{number:064x}": owner for number in range(250)}
    commands = list(plan_changes(changes, {}))
    assert [command.count("\n") - 1 for command in commands] == [ENTRIES_PER_COMMAND, ENTRIES_PER_COMMAND, 50]
    assert max(map(len, commands)) < 16_384


def test_the_file_is_private_and_replaced_whole(tmp_path: Path) -> None:
    """HAProxy reads it when it starts, whatever is going on."""
    path = tmp_path / "keys.map"
    begin_map(path)
    assert path.read_text() == ""
    write_map(path, {"a": "t/1", "b": "t/2"})
    begin_map(path)
    assert path.read_text() == "a t/1\nb t/2\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["keys.map"]
