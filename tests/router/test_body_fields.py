"""Field extraction: where a name counts as a key, which one wins, and odd bodies."""

from __future__ import annotations

import json
from typing import Any

import pytest
from golden import HAPROXY, assert_golden, body_of, load_cases, rewriting
from hypothesis import given
from hypothesis import strategies as st

from router.body_fields import MAX_TOKENS_LIMIT, BodyFields, body_fields
from router.prefix_keys import salt_of

GOLDEN = HAPROXY / "body_fields.json"

CASES: dict[str, list[Any]] = {
    "empty": ["", 1],
    "not JSON": ["hello", 3],
    "only a key": ['{"model"', 1],
    "head": ['{"model":"m","max_tokens":5,"user":"u","messages":[]}', 1],
    "tail": ['{"messages":[', 1, "1,", 5000, '],"model":"m","max_completion_tokens": 7 ,"session_id":"s"}', 1],
    "model in the middle": ['{"messages":[', 1, "1,", 3000, '],"model":"m","tools":[', 1, "2,", 3000, "]}", 1],
    "user in the middle is not looked for": [
        '{"messages":[',
        1,
        "1,",
        3000,
        '],"user":"u","x":[',
        1,
        "2,",
        3000,
        "]}",
        1,
    ],
    "white space everywhere": ['{\n\t"messages" : [],\r\n  "model"\n:\t"m" ,\n "max_output_tokens"  :  12 }', 1],
    "order of session names": ['{"user":"u","session_id":"s","previous_response_id":"p","prompt_cache_key":"k"}', 1],
    "order of limits": ['{"max_output_tokens":3,"max_completion_tokens":2,"max_tokens":1}', 1],
    "name as a value": ['{"role":"model","messages":["user","model"]}', 1],
    "quoted inside a message": [
        '{"messages":[{"content":"{\\"model\\":\\"evil\\",\\"user\\":\\"evil\\"}"}],"model":"m"}',
        1,
    ],
    "nested after the real one": ['{"model":"m","messages":[{"input":{"model":"nested","user":"nested"}}]}', 1],
    "nested before the real one": ['{"messages":[{"input":{"model":"nested"}}],"model":"m"}', 1],
    "value is an object": ['{"model":{"a":1},"user":7,"max_tokens":"5"}', 1],
    "escape in the value": ['{"model":"a\\"b","user":"a\\nb"}', 1],
    "control characters": ['{"model":"a\x00b","user":"a\nb","session_id":"a\x7fb"}', 1],
    "high bytes": ['{"model":"m\xc3\xa9\xff","user":"\x80\x9f"}', 1],
    "empty strings": ['{"model":"","prompt_cache_key":"","user":"u"}', 1],
    "256 bytes": ['{"model":"', 1, "m", 256, '"}', 1],
    "257 bytes": ['{"model":"', 1, "m", 257, '","user":"u"}', 1],
    "cut in a value": ['{"messages":[],"model":"m', 1],
    "cut before a colon": ['{"user":"u","model"', 1],
    "salt": ['{"model":"m","cache_salt":"tenant 7","messages":[]}', 1],
    "salt behind the prompt": ['{"messages":[', 1, "1,", 5000, '],"cache_salt":"s"}', 1],
    "salt longer than other fields": ['{"cache_salt":"', 1, "s", 1000, '","messages":[]}', 1],
    "salt with escapes": ['{"messages":[],"cache_salt":"a\\u00e9\\"b"}', 1],
    "salt with control characters": ['{"cache_salt":"a\nb\x00","messages":[]}', 1],
    "no salt": ['{"cache_salt":"","messages":[{"cache_salt":7}]}', 1],
    "salt of a part": ['{"messages":[{"x":{"cache_salt":"nested"}}],"cache_salt":"own"}', 1],
    "limit beyond 32 bits": ['{"max_tokens":4294967296}', 1],
    "limit of a thousand digits": ['{"max_tokens":', 1, "9", 1000, "}", 1],
    "limit of 256 digits": ['{"max_tokens":', 1, "9", 256, "}", 1],
    "leading zeros": ['{"max_tokens":', 1, "0", 40, "5}", 1],
    "fraction and sign": ['{"max_tokens":1.9,"max_completion_tokens":-3}', 1],
    "sign alone": ['{"max_tokens":-3}', 1],
    "deep": ["[", 50000, '{"model":"m"', 1, "]", 50000],
    "head is 4 KiB": ["[", 4085, ',"model":"m"', 1],
    "beyond the head": ["[", 5000, ',"model":"m"', 1],
    "NUL bytes": ["\x00", 100, '{"model":"m"', 1, "\x00", 100],
}


def vectors() -> str:
    cases = {}
    for name, parts in CASES.items():
        model, session, max_tokens, salt = body_fields(body_of({"body": parts}))
        found = {"model": model.decode("latin-1"), "session": session.decode("latin-1"), "max_tokens": max_tokens}
        cases[name] = {"body": parts} | found | {"salt": f"{salt:016x}"}
    return json.dumps(cases, indent=1) + "\n"


def test_golden_vectors_are_these() -> None:
    """The file holds every case; HAProxy is held to the same file by tests/e2e/test_haproxy_digest.py."""
    assert_golden(GOLDEN, vectors())


@pytest.mark.skipif(rewriting(), reason="the file is being rewritten")
@pytest.mark.parametrize("name", CASES)
def test_golden_fields(name: str) -> None:
    """Model, session, output limit and salt of each case."""
    case = load_cases(GOLDEN)[name]
    texts = (case[name].encode("latin-1") for name in ("model", "session"))
    expected = BodyFields(*texts, case["max_tokens"], int(case["salt"], 16))
    assert body_fields(body_of(case)) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("head", BodyFields(b"m", b"u", 5), id="fields before the prompt"),
        pytest.param("tail", BodyFields(b"m", b"s", 7), id="fields after a long prompt"),
        pytest.param("model in the middle", BodyFields(b"m"), id="model between messages and tools"),
        pytest.param("order of session names", BodyFields(session=b"k"), id="prompt_cache_key goes first"),
        pytest.param("order of limits", BodyFields(max_tokens=1), id="max_tokens goes first"),
        pytest.param("quoted inside a message", BodyFields(b"m"), id="text in a message is not a field"),
        pytest.param("nested before the real one", BodyFields(b"m"), id="after the prompt the last one wins"),
        pytest.param(
            "nested after the real one", BodyFields(b"m", b"nested"), id="before the prompt the first one wins"
        ),
        pytest.param("limit beyond 32 bits", BodyFields(max_tokens=MAX_TOKENS_LIMIT), id="limits are capped"),
        pytest.param("control characters", BodyFields(), id="control characters are not taken"),
        pytest.param("257 bytes", BodyFields(session=b"u"), id="a value too long is missing"),
        pytest.param("salt", BodyFields(b"m", salt=salt_of("tenant 7")), id="the salt is named by its hash"),
        pytest.param("salt longer than other fields", BodyFields(salt=salt_of("s" * 1000)), id="salts may be long"),
        pytest.param("salt of a part", BodyFields(salt=salt_of("own")), id="the request's own salt"),
    ],
)
def test_rules(name: str, expected: BodyFields) -> None:
    """The documented rules, on golden bodies."""
    assert body_fields(body_of({"body": CASES[name]})) == expected


def test_a_session_is_not_looked_for_when_a_header_gave_one() -> None:
    """The header goes first, so the search is saved; likewise the salt where no keys are wanted."""
    assert body_fields(b'{"model":"m","user":"u"}', wants_session=False) == BodyFields(b"m")
    assert body_fields(b'{"model":"m","cache_salt":"u"}', wants_salt=False) == BodyFields(b"m")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


@given(st.text(max_size=40), st.integers(0, 10**6), json_values)
def test_what_a_client_writes_is_found(model: str, max_tokens: int, content: object) -> None:
    """Any JSON encoder's output, fields before or after the messages; a model that needs escapes is missing."""
    for order in (("model", "max_tokens", "messages"), ("messages", "model", "max_tokens")):
        values = {"model": model, "max_tokens": max_tokens, "messages": [{"role": "user", "content": content}]}
        found = body_fields(json.dumps({key: values[key] for key in order}).encode())
        plain = json.dumps(model)[1:-1] == model and "\x7f" not in model
        assert found.model == (model.encode() if plain else b"")
        assert found.max_tokens == max_tokens


@given(st.binary(max_size=400))
def test_any_bytes_are_read(body: bytes) -> None:
    """Whatever arrives, there is an answer within its limits."""
    found = body_fields(body)
    assert len(found.model) <= 256
    assert 0 <= found.max_tokens <= MAX_TOKENS_LIMIT
