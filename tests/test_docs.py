"""The pages as a whole: links lead somewhere, the index has all of them, words have one meaning."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from plain_words import complaint

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", without_code(page.read_text()), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """A file of the tree, and a heading in it where the link names one."""
    for link in LINK.findall(without_code(page.read_text())):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{link}: no such file"
        assert not anchor or target.suffix != ".md" or anchor in anchors(target), f"{link}: no such heading"


def test_the_index_has_every_page() -> None:
    """Pages of policies are reached through their table, decisions through their folder."""
    linked = {(DOCS / link).resolve() for link in LINK.findall((DOCS / "index.md").read_text())}
    assert {page.resolve() for page in DOCS.glob("*.md")} - linked == {(DOCS / "index.md").resolve()}
    table = (DOCS / "policies.md").read_text()
    for page in (DOCS / "policies").glob("*.md"):
        assert f"(policies/{page.name})" in table, f"docs/policies.md has no line for {page.stem}"


def test_files_that_pages_name_exist() -> None:
    """A map that leads to files that moved is worse than none."""
    folders = "contract|policies|haproxy|router|engine|simulator|pointsman|bench|deploy|tests|docs"
    for page in PAGES:
        if page.name == "CHANGELOG.md":
            continue
        for name in re.findall(rf"`((?:{folders})/[\w./-]*\w)`", without_code(page.read_text())):
            assert (ROOT / name).exists(), f"{page.relative_to(ROOT)}: {name}"


def glossary() -> list[tuple[str, str]]:
    return re.findall(r"^\| \*\*(.+?)\*\* \| (.*) \|$", (DOCS / "glossary.md").read_text(), flags=re.M)


def test_a_word_has_one_meaning() -> None:
    """No word has two rows, and each row stands alone."""
    words = [word for word, _ in glossary()]
    assert len(words) > 50
    assert len(words) == len(set(words)), sorted(word for word in words if words.count(word) > 1)
    assert not [f"{word}: {wrong}" for word, meaning in glossary() if (wrong := complaint(meaning))]
