"""Writes docs/commands.md from the command line itself; a test holds the page to it.

.venv/bin/python tests/support/command_docs.py
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import typer
from reference_docs import DOCS, code, table

from pointsman.cli import app
from pointsman.commands.options import COMMON

COMMAND = ".venv/bin/python tests/support/command_docs.py"

PAGE = """\
# Commands

<!-- Generated from the code by `{command}`; change the help text there. -->

`pointsman` starts edges and their parts, and asks a running one. `pointsman COMMAND --help` shows each command in a
terminal; `pointsman --install-completion` completes commands and options with Tab. [A tour for operators](tour.md) uses
most of them.

## Asking a router

The commands under [look and change](#look-and-change), [see decisions](#see-decisions), [policies](#policies) and
[aliases](#aliases) ask the admin API of one router, and have these options besides their own:

{common}

The exit code says what came of it:

{exits}

Errors are one sentence on standard error. Tables fit 100 columns, and are as wide as the terminal where there is one;
`COLUMNS` sets another width for pipes. Long names are shortened in tables alone. Colours appear on a terminal only, and
not where `NO_COLOR` is set.

{sections}
"""

EXITS = (
    ("0", "done, or the answer is yes"),
    ("1", "the router was asked, and the answer is no: not well, no such thing, not at this moment, a wrong value"),
    ("2", "the router could not be asked: no connection, no token, too few rights, another version; or a wrong option"),
)

HEADINGS = {
    "Look and change": "Look and change",
    "See decisions": "See decisions",
    "policy": "Policies",
    "aliases": "Aliases",
    "Run an edge": "Run an edge",
}


def commands_page() -> str:
    """docs/commands.md."""
    root: Any = typer.main.get_command(app)
    sections: dict[str, list[str]] = {heading: [] for heading in HEADINGS.values()}
    for command in root.commands.values():
        if command.hidden:
            continue
        heading = HEADINGS.get(command.name, command.rich_help_panel)
        sections[heading] += described(command, "pointsman")
    common = table(("option", "meaning"), map(option_row, common_options(root)))
    text = "\n\n".join("\n\n".join((f"## {heading}", *parts)) for heading, parts in sections.items())
    return PAGE.format(command=COMMAND, common=common, exits=table(("exit code", "meaning"), EXITS), sections=text)


def common_options(root: Any) -> list[Any]:
    return [option for option in root.commands["status"].params if option.name in COMMON]


TOLD_ONCE = {(name, get_args(kind)[1].help) for name, (kind, _) in COMMON.items()}
"""Name and help of the options of all commands that ask."""


def described(command: Any, above: str) -> Iterator[str]:
    """One command, or all of a group; options for asking a router are told once for all."""
    name = f"{above} {command.name}"
    children = getattr(command, "commands", {})
    if children:
        for child in children.values():
            yield from described(child, name)
        return
    own = [
        one
        for one in command.params
        if one.name != "help" and not getattr(one, "hidden", False) and (one.name, one.help) not in TOLD_ONCE
    ]
    yield f"### `{name}`"
    yield " ".join((command.help or "").split())
    if own:
        yield table(("option", "meaning"), map(option_row, own))
    if command.epilog:
        yield "\n".join(["```", *examples(command.epilog), "```"])


def examples(epilog: str) -> list[str]:
    """The lines of an example."""
    return epilog.removeprefix("Example: ").split("; ")


def option_row(option: Any) -> tuple[str, str]:
    """Name and meaning of an option or argument."""
    meaning = option.help or ""
    if getattr(option, "envvar", None):
        meaning += f" Variable: `{option.envvar}`."
    if option.default not in (None, "", False) and not option.required:
        values = option.default if isinstance(option.default, list) else [option.default]
        meaning += f" Default: {', '.join(code(str(value)) for value in values)}."
    if option.param_type_name == "argument":
        return code(option.metavar or option.name.upper()), meaning
    *short, last = [*option.opts[1:], option.opts[0]]
    return ", ".join(map(code, [*short, f"{last} {option.metavar}" if option.metavar else last])), meaning


if __name__ == "__main__":
    (DOCS / "commands.md").write_text(commands_page())
    print(DOCS / "commands.md")
