"""Strict decoding of one policy's configuration."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import UNSET, Meta, UnsetType

from pointsman.policies.decode import decode_config, describe_type
from pointsman.policies.errors import PolicyConfigError
from pointsman.policies.policy import PolicyConfig


class Config(PolicyConfig, frozen=True, kw_only=True):
    points: Annotated[int, Meta(ge=1, le=1000)] = 100
    factor: Annotated[float, Meta(gt=0)] | UnsetType | None = UNSET
    by: Literal["requests", "tokens"] = "requests"
    weights: dict[str, float] = msgspec.field(default_factory=dict)
    wanted: str

    def __post_init__(self) -> None:
        if self.by == "tokens" and self.points == 1:
            raise ValueError("one point cannot count tokens")


def test_values_and_defaults() -> None:
    """Given values are taken, others default; a whole number passes for a number."""
    config = decode_config(Config, {"factor": 2, "wanted": "x"})
    assert config == Config(factor=2.0, wanted="x")
    assert isinstance(config.factor, float)


@pytest.mark.parametrize(
    ("values", "path", "message"),
    [
        pytest.param(
            {"wanted": "x", "point": 3},
            "at.point",
            "at.point: unknown key, expected one of the keys policy, points, factor, by, weights, wanted",
            id="unknown-key",
        ),
        pytest.param({}, "at.wanted", "at.wanted: missing, expected a string", id="missing"),
        pytest.param({"wanted": 1}, "at.wanted", "at.wanted: got 1, expected a string", id="type"),
        pytest.param(
            {"wanted": "x", "points": 0},
            "at.points",
            "at.points: got 0, expected an integer from 1 to 1000",
            id="range",
        ),
        pytest.param(
            {"wanted": "x", "points": True},
            "at.points",
            "at.points: got True, expected an integer from 1 to 1000",
            id="truth-is-no-number",
        ),
        pytest.param(
            {"wanted": "x", "factor": float("nan")},
            "at.factor",
            "at.factor: got nan, expected a number above 0 or null",
            id="not-a-number",
        ),
        pytest.param(
            {"wanted": "x", "by": "tons"}, "at.by", "at.by: got 'tons', expected 'requests' or 'tokens'", id="choice"
        ),
        pytest.param(
            {"wanted": "x", "weights": {"a": "much"}},
            "at.weights",
            "at.weights: got {'a': 'much'}, expected Expected `float`, got `str` - at `$[...]`",
            id="inside",
        ),
        pytest.param(
            {"wanted": "x", "by": "tokens", "points": 1},
            "at",
            "at: got {'by': 'tokens', 'points': 1, 'wanted': 'x'}, "
            "expected values that go together: one point cannot count tokens",
            id="together",
        ),
    ],
)
def test_errors_name_key_value_and_expectation(values: dict[str, Any], path: str, message: str) -> None:
    """Each kind of mistake is reported where it is, in words."""
    with pytest.raises(PolicyConfigError) as caught:
        decode_config(Config, values, "at")
    assert caught.value.path == path
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("kind", "phrase"),
    [
        (bool, "true or false"),
        (int, "an integer"),
        (Annotated[int, Meta(ge=0)], "an integer at least 0"),
        (Annotated[float, Meta(gt=0, le=5)], "a number above 0 and at most 5"),
        (Annotated[float, Meta(lt=1.5)], "a number below 1.5"),
        (str | None, "a string or null"),
        (dict[str, Any], "an object"),
        (list[int], "a list"),
        (bytes, "bytes"),
    ],
)
def test_types_as_phrases(kind: object, phrase: str) -> None:
    """What an operator reads instead of a type."""
    assert describe_type(kind) == phrase
