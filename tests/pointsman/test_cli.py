"""The command line: documents from flags, errors as sentences, what needs no running edge."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from command_docs import COMMAND as WRITE_COMMANDS
from command_docs import commands_page
from command_line import accept
from pages import PAGES
from plain_words import complaint
from reference_docs import DOCS
from typer.testing import CliRunner

from pointsman.cli import app
from pointsman.contract.errors import ConfigurationError
from pointsman.documents import policy_document
from pointsman.haproxy.binary import find_binary
from pointsman.haproxy.config import FILE_NAMES

runner = CliRunner()


@pytest.mark.parametrize(
    ("value", "document"),
    [
        (None, None),
        ("random", {"policy": "random"}),
        ('{"policy": "least_load", "by": "tokens"}', {"policy": "least_load", "by": "tokens"}),
        ("{policy: random}", {"policy": "random"}),
    ],
)
def test_a_policy_flag_is_a_name_or_a_document(value: str | None, document: object) -> None:
    """YAML or JSON, inline."""
    assert policy_document(value) == document


def test_a_policy_flag_may_be_a_file(tmp_path: Path) -> None:
    """Told by its suffix."""
    path = tmp_path / "policy.yaml"
    path.write_text("policy: random\n")
    assert policy_document(str(path)) == {"policy": "random"}
    with pytest.raises(ConfigurationError, match="cannot be read"):
        policy_document(str(tmp_path / "none.yaml"))
    path.write_text("- random\n")
    with pytest.raises(ConfigurationError, match="mapping"):
        policy_document(str(path))


def test_settings_are_checked_and_printed_without_a_router(tmp_path: Path) -> None:
    """`--print-config` is what would be used, the token hidden; a wrong value is one sentence and code 2."""
    path = tmp_path / "router.yaml"
    path.write_text("admin: {port: 1234, token: s3cret}\n")
    printed = runner.invoke(app, ["router", "--config", str(path), "--print-config"])
    assert printed.exit_code == 0 and "s3cret" not in printed.stdout
    assert yaml.safe_load(printed.stdout)["admin"]["port"] == 1234
    assert runner.invoke(app, ["router", "--config", str(path), "--check-config"]).exit_code == 0
    path.write_text("admin: {port: many}\n")
    wrong = runner.invoke(app, ["router", "--config", str(path), "--check-config"])
    assert wrong.exit_code == 2
    assert "admin.port" in wrong.stderr and "'many'" in wrong.stderr and "Traceback" not in wrong.stderr


def test_haproxy_files_are_written_and_valid(tmp_path: Path) -> None:
    """`haproxy render` makes the files, and HAProxy accepts them, with any name of a header that it takes."""
    config = tmp_path / "edge.yaml"
    header = "x!&*.^_|~-Session9"
    values = {"admin_socket": str(tmp_path / "a.sock"), "session_headers": [header], "model_header": header}
    config.write_text(yaml.safe_dump(values | {"threads": 1}))
    rendered = runner.invoke(app, ["haproxy", "render", "--config", str(config), "--out", str(tmp_path / "out")])
    assert rendered.exit_code == 0, rendered.output
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(FILE_NAMES)
    checked = subprocess.run(
        [find_binary().path, "-c", "-f", str(tmp_path / "out" / "haproxy.cfg")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
    config.write_text("threads: 1000\n")
    wrong = runner.invoke(app, ["haproxy", "render", "--config", str(config), "--out", str(tmp_path / "out")])
    assert wrong.exit_code == 2 and "threads" in wrong.stderr
    config.write_text(yaml.safe_dump({"session_headers": ["x-session#id"]}))
    wrong = runner.invoke(app, ["haproxy", "render", "--config", str(config), "--out", str(tmp_path / "out")])
    assert wrong.exit_code == 2
    for said in (str(config), "session_headers", "'x-session#id'", "expected header names"):
        assert said in wrong.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["engine", "sim", "--set", "timing=warp"], "timing"),
        (["engine", "sim", "--set", "tempo=1"], "tempo"),
        (["engine", "sim", "--set", "timing"], "KEY=VALUE"),
        (["engine", "sim", "--config", "/no/such.yaml"], "cannot be read"),
        (["engine", "vllm", "--set", "args=[--port, '1']"], "--port"),
    ],
)
def test_a_wrong_engine_setting_is_one_sentence(arguments: list[str], says: str) -> None:
    """Exit code 2, before anything listens."""
    wrong = runner.invoke(app, arguments)
    assert wrong.exit_code == 2 and says in wrong.stderr and "Traceback" not in wrong.stderr


def test_the_version_is_printed() -> None:
    """The one of the installed package, by either spelling."""
    for words in (["version"], ["--version"]):
        done = runner.invoke(app, words)
        assert (done.exit_code, done.stdout.strip()) == (0, version("pointsman"))


def test_a_flag_without_an_opposite_has_none() -> None:
    """`--no-check-config` would mean nothing."""
    said = runner.invoke(app, ["router", "--help"], env={"COLUMNS": "100"}).stdout
    assert "--check-config" in said and "--print-config" in said and "--no-" not in said


def test_completion_can_be_installed() -> None:
    """For the shell that asks."""
    assert "--install-completion" in runner.invoke(app, ["--help"], env={"COLUMNS": "100"}).stdout


def help_texts(command: Any, name: str = "pointsman") -> Iterator[tuple[str, str]]:
    """Every command and option with its help."""
    yield name, command.help or ""
    for option in command.params:
        if option.name != "help":
            yield f"{name} --{option.name}", getattr(option, "help", None) or ""
    for child, inner in getattr(command, "commands", {}).items():
        yield from help_texts(inner, f"{name} {child}")


def test_every_help_text_stands_alone() -> None:
    """`--help` shows each line without the code around it."""
    texts = list(help_texts(typer.main.get_command(app)))
    assert len(texts) > 50
    assert not [f"{name}: {wrong}" for name, text in texts if (wrong := complaint(text))]


def commands_of(command: Any, name: str = "pointsman") -> Iterator[tuple[str, Any]]:
    """Every command that does something, by its words."""
    children = getattr(command, "commands", {})
    if not children:
        yield name, command
    for child, inner in children.items():
        yield from commands_of(inner, f"{name} {child}")


ASKING = {"--admin", "--token", "--ca", "--json"}
"""Options of the commands that ask a router."""

OTHERS = ("up", "router", "simulate", "version", "engine", "haproxy", "token")
"""Commands and groups that ask none."""


def test_every_command_that_asks_has_an_example_and_the_same_options() -> None:
    """The example is a line that the command line takes."""
    asking = [
        (name, command) for name, command in commands_of(typer.main.get_command(app)) if name.split()[1] not in OTHERS
    ]
    assert len(asking) >= 20
    for name, command in asking:
        options = {option for parameter in command.params for option in parameter.opts}
        assert options >= ASKING, f"{name} lacks {ASKING - options}"
        assert f"Example: {name}" in command.epilog, f"{name}: {command.epilog!r}"
        for example in re.split(r"; |\|\| | > \S+", command.epilog.removeprefix("Example: ")):
            if example.strip():
                accept(shlex.split(example)[1:])


def test_help_of_every_command_fits_a_line_each() -> None:
    """The first sentence is what `pointsman --help` shows."""
    for name, command in commands_of(typer.main.get_command(app)):
        sentence = (command.help or "").splitlines()[0]
        assert sentence.endswith("."), f"{name}: {sentence!r}"


def test_the_page_of_commands_is_what_the_command_line_says() -> None:
    """Another command, option or help text shows in docs/commands.md."""
    assert (DOCS / "commands.md").read_text() == commands_page(), f"write it again: {WRITE_COMMANDS}"


def command_lines(page: Path) -> Iterator[list[str]]:
    """Words of each `pointsman` line in the blocks of a page; what follows a pipe or another operator is cut off."""
    for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text(), flags=re.M | re.S):
        for line in block.splitlines():
            if not re.match(r"(\$ )?pointsman [a-z]", line):
                continue
            words = shlex.split(line.removeprefix("$ "), comments=True)
            ends = [at for at, word in enumerate(words) if word in ("|", "||", ">", "&", "&&")]
            yield words[1 : min(ends, default=len(words))]


def test_every_command_of_the_pages_is_one() -> None:
    """With its options, in README, the tour, the runbook and the how-tos."""
    lines = [words for page in PAGES for words in command_lines(page)]
    assert len(lines) > 60
    for words in lines:
        assert accept(words) is not None


def test_a_command_line_that_asks_nothing_imports_no_http_client() -> None:
    """Every child of an edge is started by it."""
    code = "import sys, pointsman.cli; print(*({'httpx', 'rich.console', 'numpy', 'starlette'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
