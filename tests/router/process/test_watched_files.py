"""Files that take effect again when they change."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from pointsman.router.errors import SettingsError
from pointsman.router.process.readiness import Readiness
from pointsman.router.process.watched_files import WatchedFiles


class Numbers:
    """Reads a number from a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.readiness = Readiness()
        self.value = 0
        self.reads = 0
        self.files = WatchedFiles("number", path, read=self.read, readiness=self.readiness)

    def read(self) -> None:
        self.reads += 1
        try:
            self.value = int(self.path.read_text())
        except (OSError, ValueError) as error:
            raise SettingsError("number", None, "a number", str(error)) from error


@pytest.fixture
def numbers(tmp_path: Path) -> Numbers:
    path = tmp_path / "number"
    path.write_text("1")
    watched = Numbers(path)
    watched.files.load()
    return watched


def replace(path: Path, text: str) -> None:
    """As editors and deployments do: a new file under the old name."""
    fresh = path.with_name("fresh")
    fresh.write_text(text)
    fresh.replace(path)


def test_a_file_is_read_when_it_changed(numbers: Numbers) -> None:
    """Once a change, whether it was replaced or written into."""
    numbers.files.look()
    assert numbers.reads == 1
    replace(numbers.path, "2")
    numbers.files.look()
    numbers.files.look()
    assert (numbers.value, numbers.reads) == (2, 2)
    numbers.path.write_text("30")
    numbers.files.look()
    assert numbers.value == 30


def test_a_symbolic_link_that_points_elsewhere_is_a_change(numbers: Numbers, tmp_path: Path) -> None:
    """As in a volume of Kubernetes' secrets."""
    (tmp_path / "next").write_text("7")
    numbers.path.unlink()
    numbers.path.symlink_to(tmp_path / "next")
    os.utime(tmp_path / "next", (1, 1))
    numbers.files.look()
    assert numbers.value == 7


def test_what_cannot_be_used_changes_nothing_and_shows(numbers: Numbers) -> None:
    """Counted and logged once; readiness says it until the file is mended."""
    with capture_logs() as lines:
        replace(numbers.path, "two")
        numbers.files.look()
        numbers.files.look()
        assert numbers.value == 1 and numbers.files.errors == 1
        assert [line["part"] for line in lines] == ["number"] and lines[0]["log_level"] == "error"
        (why,) = numbers.readiness.impaired()
        assert why.startswith("number: what was read last is in use: ") and "two" in why
        numbers.path.unlink()
        numbers.files.look()
        assert numbers.value == 1 and numbers.files.errors == 2
        replace(numbers.path, "2")
        numbers.files.look()
    assert numbers.value == 2 and numbers.readiness.impaired() == []


def test_the_first_reading_may_refuse(tmp_path: Path) -> None:
    """A router does not start with tokens that nobody meant."""
    with pytest.raises(SettingsError):
        Numbers(tmp_path / "none").files.load()
