"""Strict decoding: what is wrong is named by source, key, value and expectation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import UNSET, Meta, UnsetType

from pointsman.contract.config import decode, describe_type, parse_value, read_mapping
from pointsman.contract.errors import ConfigurationError
from pointsman.contract.registration import Role


class OurError(ConfigurationError):
    """As a package derives its own."""


class Inner(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    port: Annotated[int, Meta(ge=0, le=65_535)] = 0
    name: Annotated[str, Meta(pattern="^[a-z]+$", max_length=8)] = "a"

    def __post_init__(self) -> None:
        if self.port == 22:
            raise ConfigurationError("port", 22, "a port that is not ssh's")


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    points: Annotated[int, Meta(ge=1, le=1000)] = 100
    factor: Annotated[float, Meta(gt=0)] | UnsetType | None = UNSET
    by: Literal["requests", "tokens"] = "requests"
    weights: dict[str, float] = msgspec.field(default_factory=dict)
    wanted: str
    role: Role = Role.BOTH
    inner: Inner = Inner()
    several: list[Inner] | None = None
    by_name: dict[str, Inner] = {}

    def __post_init__(self) -> None:
        if self.by == "tokens" and self.points == 1:
            raise ValueError("one point cannot count tokens")


def test_values_and_defaults() -> None:
    """Given values are taken, others default; a whole number passes for a number."""
    config = decode({"factor": 2, "wanted": "x"}, Config)
    assert config == Config(factor=2.0, wanted="x")
    assert isinstance(config.factor, float)


@pytest.mark.parametrize(
    ("values", "path", "message"),
    [
        pytest.param(
            {"wanted": "x", "point": 3},
            "at.point",
            "file: at.point: unknown key (did you mean 'points'?), expected one of the keys policy, points, factor, "
            "by, weights, wanted, role, inner, several, by_name",
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
            "at.weights.a",
            "at.weights.a: got 'much', expected a number",
            id="value-of-a-mapping",
        ),
        pytest.param(
            {"wanted": "x", "role": "boss"},
            "at.role",
            "at.role: got 'boss', expected 'both' or 'prefill' or 'decode'",
            id="member-of-an-enumeration",
        ),
        pytest.param(
            {"wanted": "x", "inner": {"prot": 1}},
            "at.inner.prot",
            "at.inner.prot: unknown key, expected one of the keys port, name",
            id="unknown-key-inside",
        ),
        pytest.param(
            {"wanted": "x", "several": [{}, {"port": -1}]},
            "at.several[1].port",
            "at.several[1].port: got -1, expected an integer from 0 to 65535",
            id="in-a-list-that-may-be-null",
        ),
        pytest.param(
            {"wanted": "x", "several": [{}, {"port": 22}]},
            "at.several[1].port",
            "at.several[1].port: got 22, expected a port that is not ssh's",
            id="what-a-struct-refuses-itself",
        ),
        pytest.param(
            {"wanted": "x", "by_name": {"a": {}, "b": {"name": "B"}}},
            "at.by_name.b.name",
            "at.by_name.b.name: got 'B', expected a string of at most 8 characters that matches ^[a-z]+$",
            id="inside-the-value-of-a-mapping",
        ),
        pytest.param(
            {"wanted": "x", "weights": {1: 1.0}},
            "at.weights",
            "at.weights: got {1: 1.0}, expected an object with other keys: Expected `str`, got `int`",
            id="key-of-a-mapping",
        ),
        pytest.param({"wanted": "x", "inner": 3}, "at.inner", "at.inner: got 3, expected an object", id="no-object"),
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
    with pytest.raises(OurError) as caught:
        decode(values, Config, at="at", source="file", error=OurError, known=("policy",))
    assert caught.value.key == path
    assert str(caught.value) == message if message.startswith("file: ") else f"file: {message}"


def test_of_many_keys_the_nearest_one_is_named_alone() -> None:
    """Thirty names would hide it; without a near one they are all there is to say."""
    many = msgspec.defstruct("Many", [(f"key_{number}", int, 0) for number in range(30)], forbid_unknown_fields=True)
    with pytest.raises(ConfigurationError, match=r"kee_7: unknown key \(did you mean 'key_7'\?\), expected one of 30"):
        decode({"kee_7": 1}, many)
    with pytest.raises(ConfigurationError, match=r"other: unknown key, expected one of the keys key_0, .*key_29$"):
        decode({"other": 1}, many)


def test_a_key_has_the_source_of_the_nearest_mapping_that_names_one() -> None:
    """Of a tree put together from several sources, the error names the right one."""
    sources = {"": "defaults", "inner": "edge.yaml", "inner.port": "environment variable PORT"}
    for values, source in (
        ({"inner": {"port": "many"}}, "environment variable PORT"),
        ({"inner": {"name": "UPPER"}}, "edge.yaml"),
        ({"several": [{"port": -1}]}, "defaults"),
    ):
        with pytest.raises(ConfigurationError) as caught:
            decode({"wanted": "x", **values}, Config, source=sources)
        assert caught.value.source == source


def test_text_passes_for_a_number_where_it_is_asked_for() -> None:
    """Flags and environment variables are text."""
    assert decode({"port": "80"}, Inner, strict=False) == Inner(port=80)
    with pytest.raises(ConfigurationError, match="got '80', expected an integer"):
        decode({"port": "80"}, Inner)
    with pytest.raises(ConfigurationError, match="got 'x', expected an integer"):
        decode({"port": "x"}, Inner, strict=False)
    for strict, key in ((True, "a"), (False, "b")):
        with pytest.raises(ConfigurationError, match=rf"^weights\.{key}: got"):
            decode({"wanted": "x", "weights": {"a": "1", "b": "much"}}, Config, strict=strict)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(b"- 1", "found a list, expected a file with a mapping", id="list"),
        pytest.param(b"a: [", "not YAML", id="broken"),
        pytest.param(b"\xff\xfe\x00", "not YAML", id="no text"),
        pytest.param(None, "cannot be read: No such file", id="no file"),
    ],
)
def test_what_is_no_mapping_is_refused(tmp_path: Path, content: bytes | None, says: str) -> None:
    """The sentence names the source and what was expected."""
    path = tmp_path / "given.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(OurError, match=f"^--config: {says}"):
        read_mapping(path, "--config", error=OurError)


def test_an_empty_file_gives_nothing(tmp_path: Path) -> None:
    """Defaults are used then."""
    path = tmp_path / "given.yaml"
    path.write_text("# nothing\n")
    assert read_mapping(path, "--config") == {}


def test_text_with_brackets_is_a_document_and_other_text_itself() -> None:
    """A token of digits stays a token."""
    assert parse_value("123", "--set") == "123"
    assert parse_value("{a: [1]}", "--set") == {"a": [1]}
    with pytest.raises(ConfigurationError, match=r"^--set: got '\[', expected YAML or JSON"):
        parse_value("[", "--set")


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
