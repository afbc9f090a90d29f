"""Options that all commands for operators have, and how such a command begins and ends.

Imported with the command line itself, so what asks and what draws is imported only when a command runs.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from pointsman.admin_place import DEFAULT_URL, TOKEN_VARIABLE, URL_VARIABLE, Place
from pointsman.commands.sentence import leave_closed_pipe, one_sentence_on_error, refuse

if TYPE_CHECKING:
    from pointsman.commands.inquiry import Inquiry

EXIT_NO = 1
"""The router was asked, and the answer is no."""

EXIT_INTERRUPTED = 130

ASKED = "Where to ask"
"""Heading of these options in `--help`."""

AdminUrl = Annotated[
    str,
    typer.Option(
        "--admin", envvar=URL_VARIABLE, metavar="URL", help="URL of a router's admin API.", rich_help_panel=ASKED
    ),
]
Token = Annotated[
    str,
    typer.Option(
        "--token",
        envvar=TOKEN_VARIABLE,
        metavar="TOKEN",
        help="Bearer token; in the variable, no other user of this machine sees it.",
        show_default=False,
        rich_help_panel=ASKED,
    ),
]
Ca = Annotated[
    Path | None,
    typer.Option(
        "--ca",
        metavar="FILE",
        help="File of the authority that signed the router's certificate, for https.",
        rich_help_panel=ASKED,
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print the answer of the admin API unchanged.", rich_help_panel=ASKED)
]

Options = dict[str, tuple[Any, Any]]
"""Options by the name of their parameter, with type and default."""

NO_OPTIONS: Options = {}

COMMON: Options = {"admin": (AdminUrl, DEFAULT_URL), "token": (Token, ""), "ca": (Ca, None), "json": (Json, False)}
"""Options of all commands that ask."""

Command = Callable[..., int]
"""Body of a command: gets an `Inquiry` and the command's own options, returns the exit code."""


def asks(
    group: typer.Typer,
    *,
    example: str,
    panel: str | None = None,
    name: str | None = None,
    shared: Options = NO_OPTIONS,
) -> Callable[[Command], Command]:
    """Register a function as a command that asks a router: it has the options above besides its own.

    example: a command line, shown below the help. panel: heading under which `--help` lists the command.
    name: name of the command; that of the function if None.
    shared: options that several commands have; the function takes them as `**` keywords.
    """

    def register(command: Command) -> Command:
        hints = get_type_hints(command, localns={"Inquiry": object}, include_extras=True)
        own = [
            parameter.replace(annotation=hints[parameter.name])
            for parameter in inspect.signature(command).parameters.values()
            if parameter.name != "inquiry" and parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        further = shared | COMMON
        added = [
            inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
            for option, (kind, default) in further.items()
        ]

        def run(**given: Any) -> None:
            asked = {option: given.pop(option) for option in COMMON}
            with asking(asked["admin"], asked["token"], asked["ca"], asked["json"]) as inquiry:
                code = command(inquiry, **given)
            raise typer.Exit(code)

        run.__doc__ = command.__doc__
        run.__name__ = command.__name__
        kinds = {parameter.name: parameter.annotation for parameter in (*own, *added)}
        run.__annotations__ = kinds | {"return": None}
        run.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
        group.command(name, rich_help_panel=panel, epilog=f"Example: {example}")(run)
        return command

    return register


@contextmanager
def asking(admin: str, token: str, ca: Path | None, as_json: bool) -> Iterator[Inquiry]:
    """The question of one command. What goes wrong becomes a sentence and an exit code."""
    from pointsman.admin_client import AdminClient, RefusedError
    from pointsman.commands.inquiry import Inquiry, make_console, print_raw

    with one_sentence_on_error():
        try:
            with AdminClient(Place(admin, token, ca)) as client:
                yield Inquiry(client, make_console(), as_json)
            sys.stdout.flush()
        except RefusedError as error:
            if as_json:
                print_raw(error.body)
            refuse(str(error), EXIT_NO)
        except BrokenPipeError:
            leave_closed_pipe()
        except KeyboardInterrupt:
            raise typer.Exit(EXIT_INTERRUPTED) from None
