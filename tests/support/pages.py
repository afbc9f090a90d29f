"""The Python of a page, run by sybil: its blocks one after another, in one namespace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

ROOT = Path(__file__).parents[2]

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def run_page(page: Path) -> dict[str, Any]:
    """Runs the page's Python blocks; the names they defined, none where there is no block.

    What a block raises is raised, with page and line in its traceback.
    """
    document = Sybil(parsers=[PythonCodeBlockParser()], path=str(ROOT)).parse(page)
    for example in document.examples():
        example.evaluate()
    return document.namespace
