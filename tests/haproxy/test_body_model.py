"""The model of a body: what a JSON parser says, wherever the body is cut."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pointsman.contract.prefix_keys import prompt_start
from pointsman.haproxy.body_model import MAX_STEPS, BodyModel, body_model
from pointsman.policies.request import Naming

NAMED, ABSENT, UNSEEN = Naming.NAMED, Naming.ABSENT, Naming.UNSEEN


def read(body: bytes, announced: int | None = None) -> BodyModel:
    return body_model(body, prompt_start(body), announced=len(body) if announced is None else announced)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(b'{"model":"Qwen\\/Qwen3-8B","messages":[]}', b"Qwen/Qwen3-8B", id="a slash as PHP writes it"),
        pytest.param(b'{"messages":[],"model":"\\u00e9\\ud83d\\ude00"}', "é\N{GRINNING FACE}".encode(), id="not ASCII"),
        pytest.param(b'{"messages":[],"m\\u006fdel":"sim"}', b"sim", id="an escape in the key"),
        pytest.param(b'{"metadata":{"model":"car"},"model":"sim"}', b"sim", id="nested before it"),
        pytest.param(b'{"model":"sim","metadata":{"model":"car"}}', b"sim", id="nested after it"),
        pytest.param(b'{"model":"sim","messages":[{"input":{"model":"car"}}]}', b"sim", id="nested in the prompt"),
        pytest.param(b'{"model":"a","messages":[],"model":"b"}', b"b", id="the last one wins"),
        pytest.param(b'{"model":"a","messages":[],"m\\u006fdel":"b"}', b"b", id="the last one wins, with an escape"),
        pytest.param(b'{"messages":["{\\"model\\":\\"x\\"}"],"model":"sim"}', b"sim", id="text in a message"),
        pytest.param(b'{"messages":["' + b"x" * 9000 + b'"],"model":"sim","tools":[' + b"1," * 3000 + b"1]}", b"sim",
                     id="between messages and tools, as Anthropic's client sends it"),
    ],
)  # fmt: skip
def test_it_is_what_a_json_parser_says(body: bytes, expected: bytes) -> None:
    """Top level only, the last one, without its escapes."""
    assert json.loads(body)["model"] == expected.decode()
    assert read(body) == (expected, NAMED)


@pytest.mark.parametrize(
    ("body", "announced", "naming"),
    [
        pytest.param(b'{"messages":[]}', 15, ABSENT, id="whole without it"),
        pytest.param(b'{"metadata":{"model":"car"}}', 28, ABSENT, id="nested alone"),
        pytest.param(b'{"model":null,"messages":[]}', 28, ABSENT, id="null is none"),
        pytest.param(b'{"model":"","messages":[]}', 26, ABSENT, id="empty is none"),
        pytest.param(b"", 0, ABSENT, id="no body"),
        pytest.param(b'{"messages":["x', 9000, UNSEEN, id="cut in the prompt"),
        pytest.param(b'{"messages":[{"input":{"model":"car"}}', 9000, UNSEEN, id="cut, with a nested one"),
        pytest.param(b'{"messages":[],"model":"si', 9000, UNSEEN, id="cut in the name"),
        pytest.param(b'{"model":"a\\ud83d"}', 19, UNSEEN, id="half a character"),
        pytest.param(b'{"model":"a\\nreason=x"}', 23, UNSEEN, id="a line end in the name"),
        pytest.param(b'{"model":"' + b"x" * 257 + b'"}', 269, UNSEEN, id="a name too long"),
    ],
)
def test_what_is_not_named(body: bytes, announced: int, naming: Naming) -> None:
    """A whole body without a model has none; of one that was cut, or whose model cannot be one, it is not known."""
    assert read(body, announced) == (b"", naming)


def test_a_body_without_a_length_is_whole_when_its_brackets_are_closed() -> None:
    """Chunked bodies announce none."""
    assert body_model(b'{"messages":["}"]}', 1) == (b"", ABSENT)
    assert body_model(b'{"messages":["}"]', 1) == (b"", UNSEEN)


def test_a_body_of_nothing_but_strings_is_given_up() -> None:
    """So that no body keeps a thread of HAProxy busy for long."""
    for filling in (b'"",', b"[],"):
        body = b'{"a":[' + filling * (MAX_STEPS + 1) + b'0],"model":"m","b":"' + b"x" * 2048 + b'"}'
        assert read(body) == (b"", UNSEEN)


def form(*fields: tuple[str, bytes], boundary: str = "----x") -> bytes:
    parts = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + value + b"\r\n"
        for name, value in fields
    )
    return b"".join(parts) + f"--{boundary}--\r\n".encode()


def test_the_field_of_a_form_is_read() -> None:
    """In front of the file or behind it; the last one, as Starlette takes it. A cut form's is not known."""
    noise = bytes(range(256)) * 20
    before, behind = form(("model", b"w"), ("file", noise)), form(("file", noise), ("model", b"w"))
    assert read(before) == read(behind) == read(before[:1000], 9000) == (b"w", NAMED)
    assert read(form(("model", b"a"), ("model", b"b"))) == (b"b", NAMED)
    assert read(behind[:3000], len(behind)) == (b"", UNSEEN)
    assert read(form(("file", noise))) == (b"", ABSENT)
    assert read(form(("file", b'; name="model"\r\n\r\nx'))) == (b"", ABSENT)


class Pairs(list[tuple[str, Any]]):
    """An object whose keys may come twice."""


keys = st.sampled_from(["model", "m\x6fdel", "messages", "input", "metadata", "tools", "a"])
texts = st.text(max_size=12) | st.sampled_from(['{"model":"x"}', '","model":"y"', "]}", "\\", 'model":', "model"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.lists(st.tuples(keys, inner), max_size=3).map(Pairs),
    max_leaves=12,
)


def encoded(value: object, escape: bool) -> str:
    """JSON in which keys may come twice; with `escape`, every letter of `model` as an escape."""
    if isinstance(value, Pairs):
        return "{" + ", ".join(f"{encoded(key, escape)}: {encoded(one, escape)}" for key, one in value) + "}"
    if isinstance(value, list):
        return "[" + ",".join(encoded(one, escape) for one in value) + "]"
    text = json.dumps(value)
    return text.replace("model", "".join(f"\\u00{ord(c):02x}" for c in "model")) if escape else text


@given(st.lists(st.tuples(keys, values), max_size=6).map(Pairs), st.booleans(), st.data())
@example(Pairs([("messages", "x"), ("model", "a")]), True, None)
def test_any_json_is_read_as_pythons_parser_reads_it(document: Pairs, escape: bool, data: Any) -> None:
    """Whatever is nested, repeated, escaped and quoted; a cut one gives the same name, an earlier one, or none."""
    body = encoded(document, escape).encode()
    found = read(body)
    wanted = json.loads(body).get("model")
    if isinstance(wanted, str) and wanted.isprintable() and 0 < len(wanted.encode("utf-8", "replace")) <= 256:
        assert found == (wanted.encode(), NAMED)
    elif not isinstance(wanted, str) or not wanted:
        assert found == (b"", ABSENT)
    if data is not None:
        cut = read(body[: data.draw(st.integers(0, max(len(body) - 1, 0)))], len(body) + 1)
        names = {one for key, one in document if key == "model" and isinstance(one, str)}
        assert cut.naming is not NAMED or cut.name.decode() in names


@given(st.binary(max_size=400), st.none() | st.integers(0, 500))
def test_any_bytes_are_read(body: bytes, announced: int | None) -> None:
    """Whatever arrives, there is an answer, and a name only where one was read."""
    found = body_model(body, prompt_start(body), announced=announced)
    assert bool(found.name) == (found.naming is NAMED)
