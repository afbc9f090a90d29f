"""HAProxy's body window, under `pointsman up`, follows the policy that a router saved."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pointsman.haproxy.config import PREFIX_WINDOW_BYTES, SMALL_WINDOW_BYTES
from pointsman.router.errors import StateFileError
from pointsman.router.fleet.saved import SavedState, StateFile
from pointsman.up.window import WindowWatch, saved_window


class Watched:
    """A state file, and an HAProxy that has what it was reloaded for."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "state.json"
        self.window = SMALL_WINDOW_BYTES
        self.reloads = 0
        self.watch = WindowWatch(self.path, rendered=lambda: self.window, reload=self._reload)
        self._written = 0

    def _reload(self) -> None:
        self.reloads += 1
        self.window = max(self.window, saved_window(self.path))

    def save(self, policy: dict[str, Any] | None) -> None:
        StateFile(self.path).save(SavedState(policy=policy))
        self._touch()

    def write(self, text: str) -> None:
        self.path.write_text(text)
        self._touch()

    def _touch(self) -> None:
        """A file system may count its times in steps longer than a test."""
        self._written += 1
        os.utime(self.path, ns=(self._written, self._written))


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def test_a_policy_that_goes_by_prompts_has_haproxy_reloaded_once(watched: Watched) -> None:
    """Whatever else is saved later; without a file, and for a policy that reads no prompt, nothing happens."""
    watched.watch.look()
    watched.save(None)
    watched.watch.look()
    watched.save({"policy": "round_robin"})
    watched.watch.look()
    assert watched.reloads == 0
    watched.save({"policy": "kv_cost"})
    watched.watch.look()
    watched.watch.look()
    watched.save({"policy": "prefix_affinity"})
    watched.watch.look()
    assert (watched.reloads, watched.window) == (1, PREFIX_WINDOW_BYTES)


def test_the_window_is_never_made_smaller(watched: Watched) -> None:
    """A reload for it would gain memory alone."""
    watched.window = PREFIX_WINDOW_BYTES
    watched.save({"policy": "least_load"})
    watched.watch.look()
    assert watched.reloads == 0


def test_a_file_that_cannot_be_read_changes_nothing(watched: Watched) -> None:
    """It is looked at again once it changed."""
    watched.write("{")
    watched.watch.look()
    watched.watch.look()
    assert watched.reloads == 0
    with pytest.raises(StateFileError):
        saved_window(watched.path)
    watched.save({"policy": "kv_cost"})
    watched.watch.look()
    assert watched.reloads == 1


def test_a_policy_that_is_not_installed_here_wants_no_window(watched: Watched) -> None:
    """The router says what is wrong with it."""
    watched.save({"policy": "of_somebody_else"})
    assert saved_window(watched.path) == 0
