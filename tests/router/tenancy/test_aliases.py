"""Documents of aliases, and the steps of a rollout on them."""

from typing import Any

import msgspec
import pytest

from pointsman.router.tenancy.aliases import Alias
from pointsman.router.tenancy.records import DocumentError


def alias(*weights: tuple[str, float], **fields: Any) -> Alias:
    versions = [{"model": model, "weight": weight} for model, weight in weights]
    return msgspec.convert({"name": "chat", "versions": versions, **fields}, Alias)


def test_weights_are_shares_of_new_sessions() -> None:
    """They need not add up to anything; while an alias is paused the first version has all of them."""
    chat = alias(("one", 90), ("two", 10))
    assert chat.shares() == {"one": 0.9, "two": 0.1}
    assert alias(("one", 3), ("two", 1)).shares() == {"one": 0.75, "two": 0.25}
    assert chat.held().shares() == {"one": 1.0, "two": 0.0}
    assert chat.held().held(False) == chat


def test_a_promoted_version_is_stable_and_has_all_new_sessions() -> None:
    """The one before stays a version: its sessions go on with it."""
    after = alias(("one", 90), ("two", 10), paused=True).promoted("two")
    assert after.stable == "two"
    assert after.shares() == {"two": 1.0, "one": 0.0}
    assert not after.version("one").withdrawn  # type: ignore[union-attr]
    with pytest.raises(DocumentError, match="'three' is no version of the alias chat"):
        after.promoted("three")


def test_a_rollback_withdraws_the_others_or_those_named() -> None:
    """A withdrawn version has no share and no sessions; promoting it later ends that."""
    chat = alias(("one", 80), ("two", 10), ("three", 10))
    after = chat.rolled_back()
    assert after.shares() == {"one": 1.0, "two": 0.0, "three": 0.0}
    assert [version.withdrawn for version in after.versions] == [False, True, True]
    only = chat.rolled_back("three")
    assert [version.withdrawn for version in only.versions] == [False, False, True]
    assert only.shares()["two"] == pytest.approx(10 / 90)
    assert after.promoted("two").version("two").withdrawn is False  # type: ignore[union-attr]
    for model in ("one", "four"):
        with pytest.raises(DocumentError, match="besides the stable one"):
            chat.rolled_back(model)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"versions": []}, "length >= 1"),
        ({"versions": [{"model": "a"}, {"model": "a"}]}, "models that differ"),
        ({"versions": [{"model": "chat"}]}, "cannot stand for itself"),
        ({"versions": [{"model": "a", "weight": 0}]}, "at least one weight"),
        ({"versions": [{"model": "a", "withdrawn": True}, {"model": "b"}]}, "cannot be withdrawn"),
        ({"versions": [{"model": "a b"}]}, "regex"),
        ({"versions": [{"model": "a", "weight": -1}]}, ">= 0"),
        ({"versions": [{"model": "a"}], "stop": {"ttft_p99_ratio": 0.5}}, ">= 1"),
    ],
)
def test_a_document_that_describes_no_alias_is_refused(body: dict[str, Any], said: str) -> None:
    """With a sentence on what is wrong."""
    with pytest.raises(ValueError, match=said):
        msgspec.convert({"name": "chat", **body}, Alias)


def test_the_content_of_a_document_is_the_alias() -> None:
    """Written and read again."""
    chat = alias(("one", 90), ("two", 10), stop={"error_share": 0.05}, override=True)
    assert msgspec.convert(msgspec.json.decode(msgspec.json.encode(chat.body())), Alias) == chat
