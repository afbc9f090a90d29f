"""The configuration in effect: every value once, with its source, without secrets."""

from __future__ import annotations

import msgspec

from pointsman.contract.effective import effective, given_values, leaf_sources, shown


class Store(msgspec.Struct, frozen=True, kw_only=True):
    url: str = ""
    token: str = ""


class Config(msgspec.Struct, frozen=True, kw_only=True):
    port: int = 1
    store: Store = Store()
    silence_s: dict[str, float] = {}
    tokens: list[str] = []


CONFIG = Config(
    port=2, store=Store(url="redis://me:secret@h:1/0", token="s3cret"), silence_s={"qwen2.5": 3.0}, tokens=["a"]
)
SOURCES = {"port": "command line", "store.token": "environment variable T", "silence_s.qwen2.5": "router.yaml"}


def test_every_value_has_its_source() -> None:
    """Of what nobody gave it is the default; of a mapping with keys of its own, that of its keys, dots or not."""
    assert {key: source for key, _, source in effective(CONFIG, SOURCES)} == {
        "port": "command line",
        "store.url": "default",
        "store.token": "environment variable T",
        "silence_s": "router.yaml",
        "tokens": "default",
    }


def test_secrets_are_not_shown() -> None:
    """Neither tokens nor the password in a URL; that one is set is shown."""
    values = {key: value for key, value, _ in effective(CONFIG, SOURCES)}
    assert values == {
        "port": 2,
        "store.url": "redis://me:***@h:1/0",
        "store.token": "***",
        "silence_s": {"qwen2.5": 3.0},
        "tokens": "***",
    }
    assert {key: value for key, value, _ in effective(Config(), {})}["store.token"] == ""
    assert shown("x", [{"name": "ops", "sha256": "ab"}, "http://u:p@h"]) == [
        {"name": "ops", "sha256": "***"},
        "http://u:***@h",
    ]
    assert shown("max_tokens", 5) == 5


def test_what_was_given_is_a_tree_that_can_be_read_again() -> None:
    """With its secrets, and without defaults."""
    assert given_values(CONFIG, SOURCES) == {"port": 2, "store": {"token": "s3cret"}, "silence_s": {"qwen2.5": 3.0}}


def test_a_value_has_the_source_of_the_nearest_key_above_it() -> None:
    """A file that gives a section gives what is in it, and nothing else of that section."""
    tree = {"store": {"url": "u", "deep": {"x": 1}}, "port": 2, "empty": {}}
    sources = {"store": "file", "store.url": "environment", "port": "flag", "empty": "file"}
    assert leaf_sources(tree, sources) == {
        "store.url": "environment", "store.deep.x": "file", "port": "flag", "empty": "file"
    }  # fmt: skip
