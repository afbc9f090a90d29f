"""Field extraction: where a name counts as a key, which one wins, and odd bodies."""

from __future__ import annotations

import json
from typing import Any

import pytest
from golden import HAPROXY, assert_golden, body_of, load_cases, rewriting
from hypothesis import given
from hypothesis import strategies as st

from pointsman.contract.prefix_keys import prompt_start, salt_of
from pointsman.haproxy.body_fields import MAX_TOKENS_LIMIT, BodyFields, body_fields
from pointsman.haproxy.body_model import body_model
from pointsman.policies.request import Naming

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
    "escaped slash": ['{"model":"Qwen\\/Qwen3-8B","messages":[]}', 1],
    "escaped letters": ['{"model":"\\u0071wen\\u00e9 \\ud83d\\ude00","messages":[]}', 1],
    "half a surrogate pair": ['{"model":"a\\ud83d","messages":[]}', 1],
    "escaped key": ['{"messages":[],"m\\u006fdel":"m"}', 1],
    "escaped key in the middle": [
        '{"messages":[',
        1,
        "1,",
        3000,
        '],"\\u006dodel":"m","tools":[',
        1,
        "2,",
        3000,
        "]}",
        1,
    ],
    "nested first": ['{"metadata":{"model":"car"},"model":"sim","messages":[]}', 1],
    "nested only": ['{"metadata":{"model":"car"},"messages":[]}', 1],
    "nested last": ['{"messages":[],"model":"sim","metadata":{"model":"car"}}', 1],
    "nested in the last message": ['{"model":"sim","messages":[{"input":{"model":"car"}}]}', 1],
    "twice": ['{"model":"a","messages":[],"model":"b"}', 1],
    "twice before the prompt": ['{"model":"a","model":"b","messages":[]}', 1],
    "twice, with an escape": ['{"model":"a","messages":[],"mo\\u0064el":"b"}', 1],
    "then null": ['{"model":"a","messages":[],"model":null}', 1],
    "a number": ['{"model":7,"messages":[]}', 1],
    "an array": ['[{"model":"m"}]', 1],
    "as a value": ['{"kind":"model","messages":[]}', 1],
    "backslashes before a quote": ['{"messages":["\\\\"],"model":"m"}', 1],
    "brackets in strings": ['{"messages":["]}{[","\\"]}"],"model":"m"}', 1],
    "token ids": ['{"prompt":[', 1, "1,", 9000, '2],"model":"m"}', 1],
    "deep in the middle": ['{"a":', 1, '{"x":[', 900, "1", 1, "]}", 900, ',"model":"m"}', 1],
    "form": [
        '--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n',
        1,
        "\x00\xff",
        900,
        '\r\n--b\r\ncontent-disposition: form-data; name="model"\r\n\r\nwhisper\r\n--b--\r\n',
        1,
    ],
    "form whose model is missing": ['--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nx\r\n--b--\r\n', 1],
    "form with a model twice": [
        '--b\r\nContent-Disposition: form-data; name="model"\r\n\r\n',
        1,
        "a\r\n--b\r\n",
        1,
        "Content-Type: text/plain\r\nContent-Disposition: form-data; name=model\r\n\r\nb\r\n--b--",
        1,
    ],
    "form that ends in its file": ['--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n', 1, "x", 9000],
    "NUL bytes": ["\x00", 100, '{"model":"m"', 1, "\x00", 100],
}


def vectors() -> str:
    cases = {}
    for name, parts in CASES.items():
        body = body_of({"body": parts})
        model, naming = body_model(body, prompt_start(body), announced=len(body))
        session, max_tokens, salt = body_fields(body)
        found = {"model": model.decode("latin-1"), "naming": Naming(naming).name.lower()}
        found |= {"session": session.decode("latin-1"), "max_tokens": max_tokens}
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
    body = body_of(case)
    expected = BodyFields(case["session"].encode("latin-1"), case["max_tokens"], int(case["salt"], 16))
    assert body_fields(body) == expected
    model = body_model(body, prompt_start(body), announced=len(body))
    assert model == (case["model"].encode("latin-1"), Naming[case["naming"].upper()])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("head", BodyFields(b"u", 5), id="fields before the prompt"),
        pytest.param("tail", BodyFields(b"s", 7), id="fields after a long prompt"),
        pytest.param("order of session names", BodyFields(session=b"k"), id="prompt_cache_key goes first"),
        pytest.param("order of limits", BodyFields(max_tokens=1), id="max_tokens goes first"),
        pytest.param("quoted inside a message", BodyFields(), id="text in a message is not a field"),
        pytest.param("nested after the real one", BodyFields(b"nested"), id="depth is not tracked"),
        pytest.param("limit beyond 32 bits", BodyFields(max_tokens=MAX_TOKENS_LIMIT), id="limits are capped"),
        pytest.param("control characters", BodyFields(), id="control characters are not taken"),
        pytest.param("257 bytes", BodyFields(session=b"u"), id="a value too long is missing"),
        pytest.param("salt", BodyFields(salt=salt_of("tenant 7")), id="the salt is named by its hash"),
        pytest.param("salt longer than other fields", BodyFields(salt=salt_of("s" * 1000)), id="salts may be long"),
        pytest.param("salt of a part", BodyFields(salt=salt_of("own")), id="the request's own salt"),
    ],
)
def test_rules(name: str, expected: BodyFields) -> None:
    """The documented rules, on golden bodies."""
    assert body_fields(body_of({"body": CASES[name]})) == expected


def test_a_session_is_not_looked_for_when_a_header_gave_one() -> None:
    """The header goes first, so the search is saved; likewise the salt where no keys are wanted."""
    assert body_fields(b'{"model":"m","user":"u"}', wants_session=False) == BodyFields()
    assert body_fields(b'{"model":"m","cache_salt":"u"}', wants_salt=False) == BodyFields()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


@given(st.integers(0, 10**6), json_values)
def test_what_a_client_writes_is_found(max_tokens: int, content: object) -> None:
    """Any JSON encoder's output, fields before or after the messages."""
    for order in (("max_tokens", "messages"), ("messages", "max_tokens")):
        values = {"max_tokens": max_tokens, "messages": [{"role": "user", "content": content}]}
        found = body_fields(json.dumps({key: values[key] for key in order}).encode())
        assert found.max_tokens == max_tokens


@given(st.binary(max_size=400))
def test_any_bytes_are_read(body: bytes) -> None:
    """Whatever arrives, there is an answer within its limits."""
    found = body_fields(body)
    assert len(found.session) <= 256
    assert 0 <= found.max_tokens <= MAX_TOKENS_LIMIT
