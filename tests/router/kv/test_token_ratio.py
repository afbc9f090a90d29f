"""How many bytes of a body make a token."""

from __future__ import annotations

import pytest

from pointsman.router.kv.token_ratio import TokenRatio


def test_the_ratio_is_learned_for_each_model_and_ignores_images() -> None:
    """Text moves it, a body of 300 bytes a token does not."""
    ratio = TokenRatio()
    ratio.observe("m", 3000, 1000)
    assert (ratio.bytes_per_token("m"), ratio.bytes_per_token("other")) == (3.0, 4.0)
    ratio.observe("m", 300_000, 1000)
    ratio.observe("m", 300, 0)
    assert ratio.bytes_per_token("m") == 3.0
    for _ in range(200):
        ratio.observe("m", 5000, 1000)
    assert ratio.bytes_per_token("m") == pytest.approx(5.0, rel=0.01)
