"""What a body may be, and in which words anything else is refused."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.engine.sim.bodies import PROMPTS_MAX, SEQUENCES_MAX, Ask, chat, completion, message, read_json, response
from pointsman.engine.sim.errors import RequestError

JSON = b"application/json"
HELLO = [{"role": "user", "content": "hello"}]


def refusal(read: Any, *arguments: Any) -> RequestError:
    """The error a reader raises."""
    with pytest.raises(RequestError) as caught:
        read(*arguments)
    assert 400 <= caught.value.status < 500
    return caught.value


@pytest.mark.parametrize(
    ("body", "content_type", "message", "param"),
    [
        pytest.param(
            b"{}",
            b"text/plain",
            "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed",
            None,
            id="another media type",
        ),
        pytest.param(
            b"",
            JSON,
            "1 validation error:\n  {'type': 'missing', 'loc': 'body', 'msg': 'Field required', 'input': 'None'}",
            "body",
            id="empty",
        ),
        pytest.param(
            b'{"model"',
            JSON,
            "1 validation error:\n  {'type': 'json_invalid', 'loc': 'body.8', 'msg': 'JSON decode error', 'input': "
            "'<dict of 0 items>', 'ctx': {'error': \"Expecting ':' delimiter\"}}",
            "body.8",
            id="cut short",
        ),
        pytest.param(
            b"[1, 2]",
            JSON,
            "1 validation error:\n  {'type': 'model_attributes_type', 'loc': 'body', 'msg': 'Input should be a valid "
            "dictionary or object', 'input': '<list of 2 items>'}",
            "body",
            id="not an object",
        ),
        pytest.param(b'{"a": "\xff"}', JSON, "There was an error parsing the body", None, id="not UTF-8"),
        # The standard library takes a leading NUL for UTF-16.
        pytest.param(b'\x00{"a": 1}', JSON, "There was an error parsing the body", None, id="NUL first"),
        pytest.param(
            b'{"a":' + b"[" * 2_000 + b"]" * 2_000 + b"}",
            JSON,
            "There was an error parsing the body",
            None,
            id="2,000 levels deep",
        ),
    ],
)
def test_what_is_not_a_request_object_is_refused_in_fastapis_words(
    body: bytes, content_type: bytes, message: str, param: str | None
) -> None:
    """400 and type `Bad Request`."""
    error = refusal(read_json, body, content_type)
    assert (error.status, error.kind, error.message, error.param) == (400, "Bad Request", message, param)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"messages": []}\x00', id="NUL last"),
        pytest.param(b'{"messages": "\x00"}', id="NUL in a string"),
    ],
)
def test_nul_bytes_are_not_json(body: bytes) -> None:
    """Refused with the place."""
    assert "json_invalid" in refusal(read_json, body, JSON).message


@pytest.mark.parametrize(
    ("body", "value"),
    [
        pytest.param(b'{"temperature": NaN}', "nan", id="NaN"),
        pytest.param('{"temperature": "é"}'.encode("utf-16"), "é", id="UTF-16"),
        pytest.param(b'\xef\xbb\xbf{"temperature": 1}', "1", id="byte order mark"),
    ],
)
def test_what_the_standard_library_takes_is_taken(body: bytes, value: str) -> None:
    """FastAPI parses with `json.loads`; so the same bodies pass."""
    assert str(read_json(body, b"Application/JSON; charset=utf-8")["temperature"]) == value


def test_a_chat_request_is_understood() -> None:
    """All the fields the engine acts on."""
    ask = chat(
        {
            "model": "m",
            "messages": HELLO,
            "max_tokens": 7,
            "n": 2,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
            "cache_salt": "s",
            "min_tokens": 3,
            "stop": ["x"],
            "temperature": 0.7,
            "logit_bias": {},
        }
    )
    assert (ask.model, ask.choices, ask.max_tokens, ask.min_tokens) == ("m", 2, 7, 3)
    assert (ask.ignore_eos, ask.stream, ask.include_usage, ask.cache_salt) == (True, True, True, "s")


def test_max_completion_tokens_comes_before_max_tokens() -> None:
    """The older name is the fallback."""
    assert chat({"messages": HELLO, "max_tokens": 7, "max_completion_tokens": 5}).max_tokens == 5


def test_a_chat_without_a_limit_has_none_and_a_completion_has_16() -> None:
    """vLLM's defaults; null counts as absent."""
    assert chat({"messages": HELLO, "max_tokens": None}).max_tokens is None
    assert completion({"prompt": "x", "max_tokens": None}).max_tokens == 16


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [
        pytest.param("hello", [2], id="text"),
        pytest.param(["hello", "x"], [2, 1], id="texts"),
        pytest.param([1, 2, 3], [3], id="token ids"),
        pytest.param([[1, 2, 3], [4]], [3, 1], id="lists of token ids"),
    ],
)
def test_the_four_forms_of_a_prompt(prompt: object, tokens: list[int]) -> None:
    """One prompt each, or several."""
    assert [p.tokens for p in completion({"prompt": prompt}).prompts] == tokens


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        pytest.param({}, "body.messages", "Field required", id="no messages"),
        pytest.param({"messages": "hi"}, "body.messages", "valid list", id="messages are text"),
        pytest.param({"messages": [1]}, "body.messages.0", "valid dictionary", id="a message is a number"),
        pytest.param(
            {"messages": [{"content": 5}]}, "body.messages.0.content", "valid string", id="content is a number"
        ),
        pytest.param({"messages": HELLO, "model": 5}, "body.model", "valid string", id="model is a number"),
        pytest.param(
            {"messages": HELLO, "max_tokens": "x"}, "body.max_tokens", "parse string", id="max_tokens is text"
        ),
        pytest.param({"messages": HELLO, "max_tokens": 1.5}, "body.max_tokens", "fractional", id="max_tokens is 1.5"),
        pytest.param(
            {"messages": HELLO, "max_tokens": []}, "body.max_tokens", "valid integer", id="max_tokens is a list"
        ),
        pytest.param({"messages": HELLO, "stream": "maybe"}, "body.stream", "valid boolean", id="stream is a word"),
        pytest.param({"messages": HELLO, "stream": {}}, "body.stream", "valid boolean", id="stream is an object"),
        pytest.param({"messages": HELLO, "stream_options": 1}, "body.stream_options", "dictionary", id="options"),
        pytest.param({"messages": HELLO, "stop": 1}, "body.stop", "valid string", id="stop is a number"),
        pytest.param({"messages": HELLO, "max_tokens": 0}, "max_tokens", "at least 1, got 0", id="no tokens"),
        pytest.param({"messages": HELLO, "n": 0}, "n", "at least 1", id="no choices"),
        pytest.param({"messages": HELLO, "n": SEQUENCES_MAX + 1}, None, "at most", id="too many choices"),
        pytest.param({"messages": HELLO, "max_tokens": 2, "min_tokens": 3}, "min_tokens", "less than", id="min > max"),
        pytest.param(
            {"messages": HELLO, "stream_options": {"include_usage": True}}, "stream_options", "stream=True", id="usage"
        ),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], param: str | None, words: str) -> None:
    """`param` says where, the message what."""
    error = refusal(chat, fields)
    assert error.param == param
    assert words in error.message


@pytest.mark.parametrize(
    ("value", "read"),
    [pytest.param("7", 7, id="digits"), pytest.param(7.0, 7, id="a whole float"), pytest.param(True, 1, id="true")],
)
def test_integers_are_read_laxly(value: object, read: int) -> None:
    """As pydantic does."""
    assert chat({"messages": HELLO, "max_tokens": value}).max_tokens == read


@pytest.mark.parametrize(
    ("value", "read"),
    [pytest.param("true", True, id="true"), pytest.param("Off", False, id="off"), pytest.param(1, True, id="1")],
)
def test_flags_are_read_laxly(value: object, read: bool) -> None:
    """As pydantic does."""
    assert chat({"messages": HELLO, "stream": value}).stream is read


@pytest.mark.parametrize(
    "prompt",
    [
        pytest.param(None, id="none"),
        pytest.param("", id="empty"),
        pytest.param([], id="empty list"),
        pytest.param([[]], id="an empty list in a list"),
        pytest.param([1, "x"], id="mixed"),
        pytest.param([True], id="booleans"),
        pytest.param([-1], id="a negative id"),
        pytest.param([2**32], id="an id beyond any vocabulary"),
        pytest.param({"text": "x"}, id="an object"),
        pytest.param(["x"] * (PROMPTS_MAX + 1), id="too many"),
    ],
)
def test_a_prompt_that_is_none_is_refused(prompt: object) -> None:
    """With 400, whatever it is."""
    assert refusal(completion, {"prompt": prompt}).status == 400


def test_a_message_needs_its_limit() -> None:
    """Anthropic's API has no default for `max_tokens`."""
    assert refusal(message, {"model": "m", "messages": HELLO}).param == "body.max_tokens"


def test_a_system_prompt_is_part_of_the_prompt() -> None:
    """Text or parts; both APIs that have one."""
    without = message({"model": "m", "max_tokens": 5, "messages": HELLO})
    with_text = message({"model": "m", "max_tokens": 5, "messages": HELLO, "system": "be brief"})
    with_parts = message(
        {"model": "m", "max_tokens": 5, "messages": HELLO, "system": [{"type": "text", "text": "be brief"}]}
    )
    assert with_text.prompts == with_parts.prompts != without.prompts
    assert response({"input": "hello", "instructions": "be brief"}).prompts == with_text.prompts


def test_a_response_takes_text_or_messages() -> None:
    """The same prompt either way."""
    assert response({"input": "hello"}).prompts == response({"input": HELLO}).prompts


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    (
        *("model", "messages", "prompt", "input", "system", "instructions", "tools", "cache_salt", "stop", "n"),
        *("max_tokens", "max_completion_tokens", "max_output_tokens", "min_tokens", "ignore_eos"),
        *("stream", "stream_options"),
    )
)


@given(fields=st.dictionaries(FIELDS, ANY_JSON | st.just(HELLO) | st.just("x") | st.integers(1, 9), max_size=6))
def test_any_object_is_an_ask_or_a_refusal(fields: dict[str, Any]) -> None:
    """Nothing else comes out, and every refusal can be sent."""
    for read in (chat, completion, response, message):
        try:
            values = read_json(json.dumps(fields).encode(), JSON)
            assert isinstance(read(values), Ask)
        except RequestError as error:
            msgspec.json.decode(error.body())


@given(body=st.binary(max_size=60))
def test_any_bytes_are_an_object_or_a_refusal(body: bytes) -> None:
    """Nothing else comes out."""
    try:
        assert isinstance(read_json(body, JSON), dict)
    except RequestError as error:
        msgspec.json.decode(error.body())
