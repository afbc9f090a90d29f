"""How a command that asks a router begins and ends: options, variables, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Annotated, Any

import pytest
import typer
from drawn import pointsman
from telling_admin import Told, problem, telling_admin
from typer.testing import CliRunner, Result

from pointsman.admin_client import Answer
from pointsman.cli import app
from pointsman.commands.decision_commands import FILTERS
from pointsman.commands.options import asks
from pointsman.router.fronts.api.decisions import ABOUT


def run(body: Callable[..., int], *words: str, **about: Any) -> Result:
    """A command of its own, as `asks` makes it of a function."""
    group = typer.Typer()
    asks(group, example="look", **about)(body)
    return CliRunner().invoke(group, words)


def test_url_and_token_come_from_options_or_variables() -> None:
    """Options win; the edge of this machine is asked where nobody says."""
    with telling_admin({"GET /v1/replicas": {"replicas": []}}) as admin:
        variables = {"POINTSMAN_ADMIN_URL": admin.url, "POINTSMAN_ADMIN__TOKEN": "from the variable", "COLUMNS": "100"}
        for words in ((), ("--token", "from the option"), ("--admin", admin.url.removeprefix("http://"))):
            done = CliRunner(env=variables).invoke(app, ["replicas", *words])
            assert done.exit_code == 0, done.output
        tokens = [asked.headers["authorization"].removeprefix("Bearer ") for asked in admin.asked]
        assert tokens == ["from the variable", "from the option", "from the variable"]


@pytest.mark.parametrize(
    ("told", "code"),
    [
        pytest.param({"replicas": []}, 0, id="an answer"),
        pytest.param(problem(404, "no such replica"), 1, id="no such thing"),
        pytest.param(problem(409, "conflict"), 1, id="not at this moment"),
        pytest.param(problem(422, "state: got x"), 1, id="a wrong value"),
        pytest.param(problem(507, "full"), 1, id="no room"),
        pytest.param(problem(401, "token"), 2, id="nobody it knows"),
        pytest.param(problem(403, "role"), 2, id="nobody who may"),
        pytest.param(problem(404, "Not Found"), 2, id="another version"),
        pytest.param(problem(405, "Method Not Allowed"), 2, id="another version, without the method"),
        pytest.param(Told(b"bad gateway", 502), 2, id="something between"),
        pytest.param(Told(b"<html>"), 2, id="something else"),
    ],
)
def test_the_exit_code_tells_no_from_not_asked(told: Any, code: int) -> None:
    """Each with one sentence on standard error, and nothing on standard output."""
    with telling_admin({"GET /v1/replicas": told}) as admin:
        done = pointsman("replicas", "--admin", admin.url)
    assert done.exit_code == code, done.output
    if code:
        assert done.stdout == "" and done.stderr.startswith("pointsman: ") and done.stderr.count("\n") == 1


def test_a_command_gets_its_own_options_and_the_question() -> None:
    """Those of all commands are for asking, and not its business."""
    seen: list[Any] = []

    def look(inquiry: Any, name: str, times: int = 2) -> int:
        """Look at something."""
        seen.append((name, times, inquiry.as_json, inquiry.client.url))
        return 1

    done = run(look, "here", "--times", "3", "--json", "--admin", "edge:1")
    assert done.exit_code == 1 and seen == [("here", 3, True, "http://edge:1")]


def test_options_that_commands_share_come_as_keywords() -> None:
    """They are declared once, beside a command's own ones."""
    seen: list[Any] = []

    def look(inquiry: Any, times: int = 2, **shared: str) -> int:
        """Look at something."""
        seen.append((times, shared))
        return 0

    colours = {"colour": (Annotated[str, typer.Option("--colour", "-c", help="Colour.")], "blue")}
    assert run(look, "-c", "red", "--times", "3", shared=colours).exit_code == 0
    assert run(look, shared=colours).exit_code == 0
    assert seen == [(3, {"colour": "red"}), (2, {"colour": "blue"})]


@pytest.mark.parametrize("command", ["decisions", "tail"])
def test_decisions_are_chosen_alike_in_a_list_and_as_they_end(command: str) -> None:
    """Each filter of the API is an option of both commands, and is sent as it was given."""
    filters = [f"--{name}" for name in ABOUT if name not in ("client_id",)]
    with telling_admin({"GET /v1/decisions": problem(401, "enough")}) as admin:
        words = [word for option in filters for word in (option, "x")]
        assert pointsman(command, "--admin", admin.url, *words).exit_code == 2
        sent = admin.asked[0].query
    assert {name: sent.get(name) for name in FILTERS} == dict.fromkeys(FILTERS, "x")
    assert {f"--{name}" for name in FILTERS} == set(filters)


def test_ctrl_c_is_no_traceback() -> None:
    """The shell's code for it."""

    def look(inquiry: Any) -> int:
        """Look at something."""
        raise KeyboardInterrupt

    done = run(look)
    assert done.exit_code == 130 and done.output == ""


def test_a_reader_that_left_is_no_traceback() -> None:
    """`pointsman replicas | head -1` ends quietly."""
    many = {"replicas": [{"id": f"r{at}", "x": "y" * 1_000} for at in range(3_000)]}
    with telling_admin({"GET /v1/replicas": many}) as admin:
        command = f"{sys.executable} -m pointsman replicas --json --admin {admin.url} | head -c 10"
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command], capture_output=True, env=os.environ, timeout=60, check=False
        )
    assert done.returncode == 0 and done.stderr == b"" and len(done.stdout) == 10


def test_an_answer_that_is_asked_for_as_json_is_not_decoded() -> None:
    """It goes through even where it is none."""
    with telling_admin({"GET /v1/replicas": Told(b"{]")}) as admin:
        assert pointsman("replicas", "--json", "--admin", admin.url).stdout == "{]\n"
    assert Answer(200, json.dumps({"a": 1}).encode()).json() == {"a": 1}
