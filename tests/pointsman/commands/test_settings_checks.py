"""Checks of `pointsman doctor` on sockets, files and the store that settings name."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from pathlib import Path

import pytest
from valkey_server import running_valkey

from pointsman.commands.settings_checks import (
    check_clock,
    check_secret,
    check_socket,
    check_state_file,
    check_store,
    check_tokens,
    flat,
    settings_findings,
)


def test_settings_are_known_by_their_dotted_keys() -> None:
    """Sections, too."""
    assert flat({"a": {"b": 1}, "c": 2}) == {"a": {"b": 1}, "a.b": 1, "c": 2}


def test_a_socket_that_somebody_listens_on_is_well(tmp_path: Path) -> None:
    """Unless anybody may write to it."""
    path = str(tmp_path / "a.sock")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        Path(path).chmod(0o600)
        assert check_socket("edge.admin_socket", path, starts="HAProxy").said == f"{path} answers"
        Path(path).chmod(0o666)
        found = check_socket("edge.admin_socket", path, starts="HAProxy")
        assert found.is_well is False and found.remedy == f"chmod o-w {path}"
    assert "nobody listens" in check_socket("edge.admin_socket", path, starts="HAProxy").said


def test_a_socket_that_is_none_says_who_makes_it(tmp_path: Path) -> None:
    """Missing, a file, or not asked for."""
    missing = check_socket("spop.path", str(tmp_path / "none"), starts="the router")
    assert (missing.subject, missing.is_well) == ("socket spop", False) and "start the router" in missing.remedy
    (tmp_path / "file").touch()
    assert "is no socket" in check_socket("edge.admin_socket", str(tmp_path / "file"), starts="HAProxy").said
    assert check_socket("edge.admin_socket", "", starts="HAProxy").is_well is None


def test_a_state_file_needs_a_folder_that_can_be_written(tmp_path: Path) -> None:
    """None at all is no fault, but is said."""
    assert check_state_file(str(tmp_path / "state.json")).is_well
    missing = check_state_file(str(tmp_path / "none" / "state.json"))
    assert missing.is_well is False and missing.remedy == f"mkdir -p {tmp_path / 'none'}"
    none = check_state_file("")
    assert none.is_well is None and "set state_file" in none.remedy


def test_a_folder_of_another_user_is_named_with_its_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs this is told to be the router's user."""
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)  # root may write anywhere
    tmp_path.chmod(0o500)
    found = check_state_file(str(tmp_path / "state.json"))
    assert found.is_well is False and "mode 0500" in found.said and "the router's user" in found.remedy


def test_a_file_of_secrets_is_closed_to_others(tmp_path: Path) -> None:
    """A group may read it, and nobody else."""
    path = tmp_path / "tokens.yaml"
    path.write_text("tokens: []\n")
    for mode, is_well in ((0o600, True), (0o640, True), (0o660, False), (0o644, False)):
        path.chmod(mode)
        assert check_secret("admin.tokens_file", path).is_well == is_well
    assert check_secret("admin.tokens_file", path).remedy == f"chmod 640 {path}"
    assert check_secret("admin.tls_key", tmp_path / "none").is_well is False


def test_a_list_of_tokens_that_cannot_be_read_is_wrong(tmp_path: Path) -> None:
    """Routers go on with the tokens before."""
    path = tmp_path / "tokens.yaml"
    assert list(check_tokens(path)) == []
    path.write_text("tokens: [{name: a}, {name: b}]\n")
    assert next(check_tokens(path)).said == f"2 in {path}"
    path.write_text("tokens: [")
    assert next(check_tokens(path)).is_well is False


def test_clocks_that_differ_say_by_how_much() -> None:
    """Two seconds are no fault, nor what the other clock does not tell."""
    assert check_clock("clock", 1.9).is_well and check_clock("clock", -2.5, exact_s=1.0).is_well
    ahead = check_clock("clock", 30.0)
    assert ahead.is_well is False and ahead.said == "30.0 s ahead of this machine's" and "timedatectl" in ahead.remedy
    assert check_clock("clock", -30.0).said == "30.0 s behind this machine's"


async def test_a_store_is_asked_for_its_time(tmp_path: Path) -> None:
    """A clock that is off is wrong, and so is a store that does not answer."""
    async with running_valkey(tmp_path) as valkey:
        url = valkey.url
        found = await asyncio.to_thread(lambda: list(check_store(url, "", wall=time.time)))
        assert [(one.subject, one.is_well) for one in found] == [("store", True), ("clock of the store", True)]
        off = await asyncio.to_thread(lambda: list(check_store(url, "", wall=lambda: time.time() - 60)))
        assert off[1].is_well is False and "ahead of" in off[1].said
    (away,) = await asyncio.to_thread(lambda: list(check_store("redis://:pass@127.0.0.1:1", "", wall=time.time)))
    assert away.is_well is False and "127.0.0.1:1" in away.said and "pass" not in away.said


def test_a_store_whose_password_is_hidden_is_not_asked() -> None:
    """The router shows no secret; its file has it."""
    (found,) = check_store("redis://:***@store", "", wall=time.time)
    assert found.is_well is None and "--config" in found.remedy
    (none,) = check_store("", "", wall=time.time)
    assert none.is_well is None


def test_only_what_settings_name_is_looked_at() -> None:
    """A router alone, without HAProxy."""
    subjects = [finding.subject for finding in settings_findings({}, wall=time.time)]
    assert subjects == ["admin socket", "master socket", "state file", "store"]
