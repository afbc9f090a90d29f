"""What a body may be, and that anything else is refused."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.engine.sim.bodies import PROMPTS_MAX, SEQUENCES_MAX, Ask, read_request
from pointsman.engine.sim.errors import RequestError

JSON = b"application/json"
HELLO = [{"role": "user", "content": "hello"}]
CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
RESPONSE, MESSAGE = "/v1/responses", "/v1/messages"


def read(path: str, **fields: Any) -> Ask:
    """The request with these fields."""
    return read_request(path, json.dumps(fields).encode(), JSON)


def refusal(path: str, body: bytes, content_type: bytes = JSON) -> RequestError:
    """The error a body ends in: 400."""
    with pytest.raises(RequestError) as caught:
        read_request(path, body, content_type)
    assert caught.value.status == 400
    return caught.value


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b'{"messages"', id="cut short"),
        pytest.param(b"[1, 2]", id="not an object"),
        pytest.param(b'{"messages": [], "model": "\xff"}', id="not UTF-8"),
        pytest.param(b'\x00{"messages": []}', id="NUL first"),
        pytest.param(b'{"messages": []}\x00', id="NUL last"),
        pytest.param(b'{"messages":' + b"[" * 2_000 + b"]" * 2_000 + b"}", id="2,000 levels deep"),
        pytest.param(b"{}", id="no messages"),
    ],
)
def test_what_is_not_a_request_object_is_refused(body: bytes) -> None:
    """With 400, whatever it is."""
    refusal(CHAT, body)


def test_a_body_of_another_media_type_is_refused() -> None:
    """JSON alone is read, however its type is spelt."""
    assert "application/json" in refusal(CHAT, b'{"messages": []}', b"text/plain").message
    assert read_request(CHAT, b'{"messages": []}', b"Application/JSON; charset=utf-8").prompts


def test_a_chat_request_is_understood() -> None:
    """All the fields the engine acts on; the others are passed over."""
    ask = read(
        CHAT,
        model="m",
        messages=HELLO,
        max_tokens=7,
        n=2,
        ignore_eos=True,
        stream=True,
        stream_options={"include_usage": True},
        cache_salt="s",
        min_tokens=3,
        stop=["x"],
        temperature=0.7,
        logit_bias={},
        kv_transfer_params={"a": 1},
    )
    assert (ask.model, ask.choices, ask.max_tokens, ask.min_tokens) == ("m", 2, 7, 3)
    assert (ask.ignore_eos, ask.stream, ask.include_usage, ask.cache_salt) == (True, True, True, "s")
    assert ask.kv_transfer_params == {"a": 1}


def test_max_completion_tokens_comes_before_max_tokens() -> None:
    """The older name is the fallback."""
    assert read(CHAT, messages=HELLO, max_tokens=7, max_completion_tokens=5).max_tokens == 5


def test_a_chat_without_a_limit_has_none_and_a_completion_has_16() -> None:
    """vLLM's defaults; null counts as absent."""
    assert read(CHAT, messages=HELLO, max_tokens=None).max_tokens is None
    assert read(COMPLETION, prompt="x", max_tokens=None).max_tokens == 16


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
    assert [p.tokens for p in read(COMPLETION, prompt=prompt).prompts] == tokens


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        pytest.param({"messages": "hi"}, "messages", id="messages are text"),
        pytest.param({"messages": [1]}, "messages", id="a message is a number"),
        pytest.param({"messages": HELLO, "model": 5}, "model", id="model is a number"),
        pytest.param({"messages": HELLO, "max_tokens": "x"}, "max_tokens", id="max_tokens is text"),
        pytest.param({"messages": HELLO, "max_tokens": 1.5}, "max_tokens", id="max_tokens is 1.5"),
        pytest.param({"messages": HELLO, "stream": "maybe"}, "stream", id="stream is a word"),
        pytest.param({"messages": HELLO, "stream_options": 1}, "stream_options", id="options are a number"),
        pytest.param({"messages": HELLO, "max_tokens": 0}, "max_tokens", id="no tokens"),
        pytest.param({"messages": HELLO, "n": 0}, "n", id="no choices"),
        pytest.param({"messages": HELLO, "n": SEQUENCES_MAX + 1}, "n", id="too many choices"),
        pytest.param({"messages": HELLO, "max_tokens": 2, "min_tokens": 3}, "min_tokens", id="least above most"),
        pytest.param({"messages": HELLO, "stream_options": {"include_usage": True}}, "stream=True", id="usage alone"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], named: str) -> None:
    """The message says which one."""
    assert named in refusal(CHAT, json.dumps(fields).encode()).message


def test_choices_are_limited_over_all_prompts() -> None:
    """Two prompts may have half as many answers each."""
    body = {"prompt": ["x", "y"], "n": SEQUENCES_MAX // 2 + 1}
    assert refusal(COMPLETION, json.dumps(body).encode()).param == "n"


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
    refusal(COMPLETION, json.dumps({"prompt": prompt}).encode())


@pytest.mark.parametrize("missing", ["model", "max_tokens", "messages"])
def test_a_message_needs_its_model_and_its_limit(missing: str) -> None:
    """Anthropic's API has no default for them."""
    fields = {"model": "m", "max_tokens": 5, "messages": HELLO}
    del fields[missing]
    assert missing in refusal(MESSAGE, json.dumps(fields).encode()).message


def test_a_system_prompt_is_part_of_the_prompt() -> None:
    """Text or parts; both APIs that have one."""
    fields: dict[str, Any] = {"model": "m", "max_tokens": 5, "messages": HELLO}
    with_text = read(MESSAGE, **fields, system="be brief")
    with_parts = read(MESSAGE, **fields, system=[{"type": "text", "text": "be brief"}])
    assert with_text.prompts == with_parts.prompts != read(MESSAGE, **fields).prompts
    assert read(RESPONSE, input="hello", instructions="be brief").prompts == with_text.prompts


def test_a_response_takes_text_or_messages() -> None:
    """The same prompt either way."""
    assert read(RESPONSE, input="hello").prompts == read(RESPONSE, input=HELLO).prompts


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
    for path in (CHAT, COMPLETION, RESPONSE, MESSAGE):
        try:
            assert isinstance(read(path, **fields), Ask)
        except RequestError as error:
            msgspec.json.decode(error.body())


@given(body=st.binary(max_size=60))
def test_any_bytes_are_an_ask_or_a_refusal(body: bytes) -> None:
    """Nothing else comes out."""
    try:
        assert isinstance(read_request(CHAT, body, JSON), Ask)
    except RequestError as error:
        msgspec.json.decode(error.body())
