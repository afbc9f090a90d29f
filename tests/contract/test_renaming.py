"""The model's name in bodies and answers."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.contract.renaming import AnswerRenaming, rename_request

JSON_TYPE = "application/json"
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=8), VALUES, max_size=5), st.text(min_size=1, max_size=20), st.integers(0, 5))
def test_a_body_has_the_other_model_and_is_otherwise_the_same(fields: dict[str, Any], alias: str, at: int) -> None:
    """Wherever the field stands, with whatever is beside it."""
    fields.pop("model", None)
    items = list(fields.items())
    items.insert(at, ("model", alias))
    found = rename_request(json.dumps(dict(items), indent=at % 3).encode(), JSON_TYPE, "m-v2")
    assert found is not None
    assert found.alias == alias
    assert json.loads(found.body) == {**fields, "model": "m-v2"}
    assert list(json.loads(found.body)) == list(dict(items))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"model":3}',
        b'{"model":null}',
        b"\xff",
        b'{"messages":[{"model":"x"}]}',
        b"[" * 99999,
    ],
)
def test_a_body_that_names_no_model_is_left_alone(body: bytes) -> None:
    """The engine says what is wrong with it."""
    assert rename_request(body, JSON_TYPE, "m-v2") is None


def test_the_model_that_counts_is_the_last_one_as_for_any_parser() -> None:
    """Escapes in its key included."""
    found = rename_request(b'{"model":"a","x":{"model":"y"},"mod\\u0065l":"b"}', JSON_TYPE, "m")
    assert found is not None
    assert found.alias == "b"
    assert json.loads(found.body) == {"model": "m", "x": {"model": "y"}}


def test_a_form_names_its_model_in_a_part() -> None:
    """The file beside it stays as it is, byte for byte."""
    wav = bytes(range(256))
    body = b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + wav + b"\r\n"
    body += b'--xyz\r\nContent-Disposition: form-data; name="model"\r\n\r\ntalk\r\n--xyz--\r\n'
    found = rename_request(body, "multipart/form-data; boundary=xyz", "whisper")
    assert found is not None
    assert (found.body, found.alias) == (body.replace(b"talk", b"whisper"), "talk")
    assert rename_request(body, "multipart/form-data", "whisper") is None
    assert rename_request(b"--xyz--\r\n", "multipart/form-data; boundary=xyz", "whisper") is None


def test_an_answer_has_the_name_that_was_asked_for() -> None:
    """In one piece; an answer about another model, or one that is no object, passes as it is."""
    names = AnswerRenaming("org/m-v2", "chat")
    assert json.loads(names.whole(b'{"id": "1", "model": "org/m-v2", "x": {"model": "org/m-v2"}}')) == {
        "id": "1",
        "model": "chat",
        "x": {"model": "org/m-v2"},
    }
    for other in (b'{"model":"else"}', b"{}", b"[]", b"no JSON", b""):
        assert names.whole(other) == other


def test_events_of_a_stream_have_it_too_and_text_is_left_alone() -> None:
    """Also where the model stands inside, as in the first event of a message; text that looks like it has its quotes
    escaped."""
    names = AnswerRenaming("m-v2", "chat")
    chunk = {"id": "1", "model": "m-v2", "choices": [{"delta": {"content": 'say "model":"m-v2" now'}}]}
    event = b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"
    assert json.loads(names.events(event)[6:]) == {**chunk, "model": "chat"}
    assert names.events(b'data: {"message":{"model":"m-v2"}}\n\n') == b'data: {"message":{"model":"chat"}}\n\n'
    assert names.events(b"data: [DONE]\n\n") == b"data: [DONE]\n\n"
