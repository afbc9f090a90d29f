"""README and docs: their Python runs as written."""

from __future__ import annotations

from pathlib import Path

import pytest
from pages import PAGES, ROOT, run_page

WITH_PYTHON = [page for page in PAGES if "```python\n" in page.read_text()]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_runs_as_written(page: Path) -> None:
    """Block after block, as somebody would who follows the page."""
    assert run_page(page)


def test_there_are_pages_with_python() -> None:
    """The page on writing a policy is one of them, so that none of the above would mean a broken search."""
    assert ROOT / "docs" / "writing-a-policy.md" in WITH_PYTHON


def test_a_page_that_is_wrong_fails(tmp_path: Path) -> None:
    """A second block sees the names of the first, and its failing assertion is raised."""
    page = tmp_path / "page.md"
    page.write_text("```python\nn = 1\n```\n\n```python\nassert n == 2\n```\n")
    with pytest.raises(AssertionError):
        run_page(page)
