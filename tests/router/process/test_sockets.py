"""Unix sockets of the router: only its user's, in place of a dead one's, never of a living one's or of a file."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest

from pointsman.router.errors import SettingsError
from pointsman.router.process.sockets import bind_unix


def test_only_the_user_may_open_it(tmp_path: Path) -> None:
    """Mode 0600, listening, and nothing else in the folder."""
    path = tmp_path / "spop.sock"
    with bind_unix("spop", str(path)), socket.socket(socket.AF_UNIX) as peer:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        peer.connect(str(path))
        assert list(tmp_path.iterdir()) == [path]


def test_takes_the_place_of_a_dead_process(tmp_path: Path) -> None:
    """A router that was killed leaves its file behind; the one after it listens there all the same."""
    path = tmp_path / "ring.sock"
    bind_unix("ring", str(path)).close()
    assert path.exists()
    with bind_unix("ring", str(path)), socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(path))


def test_does_not_take_a_living_one(tmp_path: Path) -> None:
    """Two routers on one path: the second says so, the first goes on."""
    path = tmp_path / "spop.sock"
    with bind_unix("spop", str(path)), socket.socket(socket.AF_UNIX) as peer:
        with pytest.raises(SettingsError, match=r"^spop: cannot listen on .*spop\.sock: another process does"):
            bind_unix("spop", str(path))
        peer.connect(str(path))


@pytest.mark.parametrize(
    ("name", "said"), [("file", "no socket is in the way"), ("missing/spop.sock", "No such file"), ("x" * 120, "path")]
)
def test_a_path_that_cannot_be_is_one_sentence(tmp_path: Path, name: str, said: str) -> None:
    """A file that is there stays; a folder that is not, and a path too long, name the setting."""
    (tmp_path / "file").write_text("kept")
    with pytest.raises(SettingsError, match=f"^spop: cannot listen on .*: .*{said}"):
        bind_unix("spop", str(tmp_path / name))
    assert (tmp_path / "file").read_text() == "kept"
