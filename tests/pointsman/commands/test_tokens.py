"""`pointsman token create`: shown once, kept as a hash."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from pointsman.cli import app
from pointsman.commands.tokens import added, create_token, line_of
from pointsman.contract.tokens import hash_token
from pointsman.errors import StartError
from pointsman.router.fronts.token_file import TokenFile

runner = CliRunner()


def create(*words: str, code: int = 0) -> str:
    result = runner.invoke(app, ["token", "create", *words])
    assert result.exit_code == code, result.output
    return result.stdout.strip() if code == 0 else result.stderr


def test_a_token_is_printed_alone_and_its_line_beside_it() -> None:
    """A script takes standard output; a person pastes the line."""
    result = runner.invoke(app, ["token", "create", "--name", "ann", "--role", "read", "--role", "operate"])
    token = result.stdout.strip()
    assert token.startswith("pm_") and "\n" not in token
    line = next(line for line in result.stderr.splitlines() if line.startswith("  - "))
    assert yaml.safe_load(line) == [{"name": "ann", "roles": ["read", "operate"], "sha256": hash_token(token)}]
    assert token not in result.stderr


def test_a_file_gets_one_token_after_the_other(tmp_path: Path) -> None:
    """The router reads it; comments and mode stay; nobody else may read a new one."""
    path = tmp_path / "tokens.yaml"
    one = create("--name", "one", "--role", "engine", "--days", "30", "--file", str(path))
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("# who may do what\n" + path.read_text())
    path.chmod(0o640)
    two = create("--name", "two", "--role", "read", "--file", str(path))
    listed = TokenFile(path)
    listed.read()
    assert {getattr(listed.find(token, 0.0), "name", "") for token in (one, two)} == {"one", "two"}
    assert path.read_text().startswith("# who may do what\ntokens:\n  - {name: one, ")
    assert path.stat().st_mode & 0o777 == 0o640
    assert listed.find(one, 4e9) is None and listed.find(two, 4e9) is not None


@pytest.mark.parametrize("text", ["tokens: []\n", "tokens:\n- {name: x, roles: [read], sha256: '%s'}" % ("a" * 64), ""])
def test_lists_of_all_forms_get_a_line(text: str) -> None:
    """Empty, indented or not, with and without an end of line."""
    _, record = create_token("ann", ["read"], days=None, now=datetime.now(UTC))
    assert yaml.safe_load(added(text, record, "f"))["tokens"][-1]["name"] == "ann"


def test_a_list_that_takes_no_line_is_left_alone(tmp_path: Path) -> None:
    """The line is in the refusal, for whoever adds it by hand."""
    path = tmp_path / "tokens.json"
    before = json.dumps({"tokens": [{"name": "x", "roles": ["read"], "sha256": "a" * 64}]})
    path.write_text(before)
    assert "add this one yourself: {name: ann, " in create(
        "--name", "ann", "--role", "read", "--file", str(path), code=2
    )
    assert path.read_text() == before
    with pytest.raises(StartError):
        added(before, create_token("ann", ["read"], days=1, now=datetime.now(UTC))[1], "f")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--name", "a b", "--role", "read"], "name"),
        (["--name", "a", "--role", "admin"], "'read' or 'operate' or 'engine'"),
    ],
)
def test_what_no_router_would_take_is_refused(words: list[str], says: str) -> None:
    """One sentence and exit code 2."""
    assert says in create(*words, code=2)


def test_the_name_of_a_file_is_in_the_refusal(tmp_path: Path) -> None:
    """A folder that is not there, a file that is no list, a name that is listed."""
    missing = tmp_path / "none" / "tokens.yaml"
    assert str(missing) in create("--name", "a", "--role", "read", "--file", str(missing), code=2)
    path = tmp_path / "tokens.yaml"
    path.write_text("tokens: {")
    assert f"{path}: not YAML" in create("--name", "a", "--role", "read", "--file", str(path), code=2)
    path.unlink()
    create("--name", "a", "--role", "read", "--file", str(path))
    assert "names that are listed once" in create("--name", "a", "--role", "read", "--file", str(path), code=2)


def test_json_has_token_and_record() -> None:
    """For programs."""
    made = json.loads(create("--name", "a", "--role", "read", "--json"))
    assert made["record"]["sha256"] == hash_token(made["token"])


def test_a_line_says_when_it_ends() -> None:
    """In UTC."""
    _, record = create_token("a", ["read"], days=1, now=datetime(2027, 1, 1, 12, 0, 0, 5, tzinfo=UTC))
    assert yaml.safe_load(line_of(record))["expires"] == "2027-01-02T12:00:00Z"
