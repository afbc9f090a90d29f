"""The stories in this folder, played on the router without sockets."""

from __future__ import annotations

from pathlib import Path

import pytest
from scenario import Story, play, read_stories, write_stories

FILES = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_stories_go_as_written(path: Path, request: pytest.FixtureRequest) -> None:
    """Line by line what the router answered when somebody last read the file."""
    stories = read_stories(path)
    played = [play(story) for story in stories]
    if request.config.getoption("--rewrite", default=False):
        write_stories(path, played)
    else:
        assert list(map(str, played)) == list(map(str, stories))


def test_there_are_stories() -> None:
    """The folder is searched where it is."""
    assert len(FILES) >= 10 and all(map(read_stories, FILES))


def test_an_answer_that_is_another_is_seen() -> None:
    """Written down is b, and a serves."""
    wrong = Story("Wrong", ["replicas a", "route r1", "  -> b least-load"])
    assert play(wrong).lines == ["replicas a", "route r1", "  -> a least-load"]


def test_a_line_nobody_understands_is_named() -> None:
    """A typo is no story that happens to pass."""
    with pytest.raises(AttributeError, match="do_rout") as raised:
        play(Story("Typo", ["replicas a", "rout r1"]))
    assert raised.value.__notes__ == ["Typo: rout r1"]
