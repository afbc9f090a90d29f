"""docs/settings.md says what router and HAProxy can be told."""

from __future__ import annotations

import msgspec
import pytest
from plain_words import complaint
from reference_docs import COMMAND, DOCS, setting_meanings, settings_page

from pointsman.haproxy.config import EdgeConfig
from pointsman.router.settings import Settings


def test_the_page_is_what_the_code_says() -> None:
    """Another key, default or docstring shows in the page."""
    assert (DOCS / "settings.md").read_text() == settings_page(), f"write it again: {COMMAND}"


def test_every_key_is_on_the_page() -> None:
    """Keys of both files, those that hold others as sections."""
    page = settings_page()
    for owner in (Settings, EdgeConfig):
        for field in msgspec.structs.fields(owner):
            assert f"| `{field.name}` |" in page or f"### `{field.name}`" in page, field.name


def test_every_meaning_stands_alone() -> None:
    """No row of the page is blank, and none begins with a word whose subject is on another row."""
    rows = list(setting_meanings())
    assert len(rows) > 150
    assert not [f"{key}: {wrong}" for key, meaning in rows if (wrong := complaint(meaning))]


@pytest.mark.parametrize("text", ["", "  ", "It serves.", "Of these, some.", "The same again.", "0: no limit."])
def test_a_text_that_needs_its_neighbour_is_refused(text: str) -> None:
    """Blank cells, pronouns and special values before the subject are what the rule is for."""
    assert complaint(text)


@pytest.mark.parametrize("text", ["Items in a page.", "Thatched roofs.", "1 while the store answers."])
def test_a_text_with_a_subject_is_accepted(text: str) -> None:
    """A first word that only begins like a pronoun is none."""
    assert not complaint(text)
