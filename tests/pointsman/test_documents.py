"""Files that flags name: read the same everywhere, refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from pointsman.documents import read_mapping
from pointsman.errors import StartError


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(b"- 1", "a mapping is expected, found list", id="list"),
        pytest.param(b"a: [", "not YAML", id="broken"),
        pytest.param(b"\xff\xfe\x00", "not YAML", id="no text"),
    ],
)
def test_what_is_no_mapping_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    """The sentence names the flag, the file and what was expected."""
    path = tmp_path / "given.yaml"
    path.write_bytes(content)
    with pytest.raises(StartError, match=f"--config: {path}: {says}"):
        read_mapping(path)


def test_an_empty_file_says_nothing(tmp_path: Path) -> None:
    """Defaults are used then."""
    path = tmp_path / "given.yaml"
    path.write_text("# nothing\n")
    assert read_mapping(path) == {}
