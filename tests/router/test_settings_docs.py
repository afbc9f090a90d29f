"""docs/settings.md says what router and HAProxy can be told."""

from __future__ import annotations

import msgspec
from reference_docs import COMMAND, DOCS, settings_page

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
