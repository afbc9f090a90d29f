"""Documents: which of two is right."""

import pytest

from pointsman.router.documents.document import Document


def test_the_later_version_is_right_and_of_two_equal_ones_the_greater_content() -> None:
    """The order is total, so all edges agree whatever reached them first."""
    first, second, other = (
        Document(name="tenant/a", version=version, body=body)
        for version, body in ((1, {"weight": 9}), (2, {"weight": 1}), (2, {"weight": 2}))
    )
    assert first.rank < second.rank < other.rank
    assert second.rank == Document(name="tenant/a", version=2, body={"weight": 1}, about={"why": "x"}).rank


def test_content_that_is_no_json_is_refused() -> None:
    """The name is in the sentence."""
    with pytest.raises(ValueError, match="tenant/a is no JSON"):
        Document(name="tenant/a", version=1, body={"weight": {1: 2, "a": 3}})
