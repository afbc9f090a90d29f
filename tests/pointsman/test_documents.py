"""Files that flags name: an error names flag and file."""

from __future__ import annotations

from pathlib import Path

import pytest

from pointsman.contract.errors import ConfigurationError
from pointsman.documents import read_mapping


def test_what_is_no_mapping_is_refused(tmp_path: Path) -> None:
    """The sentence names the flag and the file."""
    path = tmp_path / "given.yaml"
    path.write_text("- 1")
    with pytest.raises(ConfigurationError, match=f"^--policy: {path}: found a list"):
        read_mapping(path, "--policy")
