"""The folder of an `up`: held by one, left as it should be."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from pathlib import Path

import pytest

from pointsman.errors import StartError
from pointsman.up import run_folder
from pointsman.up.run_folder import RunFolder


def test_a_second_holder_is_refused_and_nothing_is_touched(tmp_path: Path) -> None:
    """The sentence names the folder and the process that holds it."""
    first = RunFolder.take(tmp_path / "run")
    (first.path / "state.json").write_text("of the first")
    before = {path.name: path.stat().st_mtime_ns for path in first.path.iterdir()}
    with pytest.raises(StartError, match=rf"--run-dir: {first.path}: another `pointsman up` \(pid {os.getpid()}\)"):
        RunFolder.take(tmp_path / "run")
    assert {path.name: path.stat().st_mtime_ns for path in first.path.iterdir()} == before
    first.release(failed=False)
    RunFolder.take(tmp_path / "run").release(failed=False)


def test_a_folder_made_for_a_start_that_is_refused_goes(tmp_path: Path) -> None:
    """One that was there before stays, with all that is in it."""
    made = RunFolder.take(tmp_path / "made")
    made.refuse()
    assert not (tmp_path / "made").exists()
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "state.json").touch()
    RunFolder.take(tmp_path / "kept").refuse()
    assert (tmp_path / "kept" / "state.json").exists()


def test_a_temporary_folder_stays_when_something_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its logs say what; after a clean run nothing is left."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    clean, failed = RunFolder.take(None), RunFolder.take(None)
    assert stat.S_IMODE(clean.path.stat().st_mode) == stat.S_IMODE(clean.logs.stat().st_mode) == 0o700
    assert not clean.release(failed=False)
    assert failed.release(failed=True)
    assert not clean.path.exists() and failed.logs.exists()


def test_parts_of_an_earlier_run_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They end within a second of an `up` that was killed; one that goes on is named, and not disturbed."""
    monkeypatch.setattr(run_folder, "ORPHANS_S", 0.2)
    folder = tmp_path / "run"
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "ring.sock"))
        listening.listen()
        with pytest.raises(StartError, match=r"a process of an earlier run still listens on ring\.sock"):
            RunFolder.take(folder)
        assert not (folder / "log").exists()
    RunFolder.take(folder).release(failed=False)


def test_a_path_too_long_for_sockets_is_refused(tmp_path: Path) -> None:
    """Before it is made."""
    with pytest.raises(StartError, match="too long for the sockets"):
        RunFolder.take(tmp_path / ("x" * 100))
    assert not list(tmp_path.iterdir())
