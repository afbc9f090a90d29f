"""Prefix keys: the table, the chain, and the golden vectors HAProxy must give too."""

from __future__ import annotations

import json
from typing import Any

import pytest
import xxhash
from golden import HAPROXY, assert_golden, body_of, load_cases, rewriting
from hypothesis import given
from hypothesis import strategies as st

from pointsman.contract.prefix_keys import (
    BOUNDARIES,
    CHUNK_BYTES,
    MAX_KEYS,
    PROMPT_KEYS,
    KeyStream,
    prefix_keys,
    prompt_start,
    salt_of,
    scope_of,
    scoped,
)

GOLDEN = HAPROXY / "prefix_keys.json"

CASES: dict[str, list[Any]] = {
    "empty body": ["", 1],
    "no prompt key": ['{"model":"m","query":"', 1, "x", 5000, '"}', 1],
    "one byte short of a chunk": ['{"messages":', 1, "a", 500, "", 1],
    "exactly one chunk": ['{"model":"m","messages"', 1, "a", 502, "", 1],
    "one byte more than a chunk": ['{"model":"m","messages"', 1, "a", 503, "", 1],
    "prompt": ['{"prompt":"', 1, "once upon a time ", 100, '"}', 1],
    "input": ['{"model":"m","input":"', 1, "once upon a time ", 100, '"}', 1],
    "tools before messages": [
        '{"tools":[',
        1,
        '{"name":"t"},',
        60,
        '],"messages":[',
        1,
        '{"role":"user"},',
        60,
        "]}",
        1,
    ],
    "system before messages": ['{"model":"m","system":"', 1, "be brief. ", 80, '","messages":[', 1, "1,", 900, "]}", 1],
    "same prompt, other model": ['{"model":"other, longer name","system":"', 1, "be brief. ", 80, '","messages"', 1],
    "key far into the body": ['{"metadata":"', 1, "m", 9000, '","prompt":"', 1, "p", 3000, '"}', 1],
    "key across the head's end": ['{"pad":"', 1, "m", 4083, '","input":"', 1, "p", 3000, '"}', 1],
    "no JSON, all bytes": ["\x00\xff", 700, '"input"', 1, "".join(map(chr, range(256))), 20],
    "8 KiB: the last fine chunk": ['"messages"', 1, "0123456789abcde\n", 512, "", 1],
    "33 KiB: second step begins": ['"messages"', 1, "0123456789abcde\n", 2112, "", 1],
    "100 KiB: third step begins": ['"messages"', 1, "0123456789abcde\n", 6400, "", 1],
    "more than the table reaches": ['"messages"', 1, "0123456789abcde\n", 22000, "", 1],
}


def vectors() -> str:
    cases = {}
    for name, parts in CASES.items():
        body = body_of({"body": parts})
        cases[name] = {"body": parts, "start": prompt_start(body), "keys": [f"{key:016x}" for key in prefix_keys(body)]}
    return json.dumps(cases, indent=1) + "\n"


def test_golden_vectors_are_these() -> None:
    """The file holds every case; HAProxy is held to the same file by tests/e2e/test_haproxy_digest.py."""
    assert_golden(GOLDEN, vectors())


@pytest.mark.skipif(rewriting(), reason="the file is being rewritten")
@pytest.mark.parametrize("name", CASES)
def test_golden_keys(name: str) -> None:
    """Start and keys of each case."""
    case = load_cases(GOLDEN)[name]
    body = body_of(case)
    assert prompt_start(body) == case["start"]
    assert [f"{key:016x}" for key in prefix_keys(body)] == case["keys"]


def test_the_table_is_fine_at_the_head_and_ends_at_320_kib() -> None:
    """512 B steps for 8 KiB, then 1 KiB to 32 KiB, 2 KiB to 96 KiB, 4 KiB to 320 KiB: 128 keys."""
    assert MAX_KEYS == len(BOUNDARIES) == 128
    assert (BOUNDARIES[15], BOUNDARIES[39], BOUNDARIES[71], BOUNDARIES[127]) == (8192, 32768, 98304, 327680)
    assert list(CHUNK_BYTES) == sorted(CHUNK_BYTES)


def test_each_key_seeds_the_next() -> None:
    """Key i is xxh64 of chunk i with key i-1 as seed, the first with 0, from the prompt key on."""
    body = b'{"model":"m",' + b'"messages"' + bytes(range(256)) * 8
    prompt = body[13:]
    first = xxhash.xxh64_intdigest(prompt[:512], 0)
    second = xxhash.xxh64_intdigest(prompt[512:1024], first)
    assert prefix_keys(body)[:2] == (first, second)


def test_what_stands_before_the_prompt_does_not_matter() -> None:
    """Model, user and sampling fields before the prompt leave the chain alone."""
    prompt = b'"messages":[' + b'{"role":"user","content":"hello"},' * 99
    assert prefix_keys(b'{"model":"a","user":"u1",' + prompt) == prefix_keys(b'{"temperature":1,' + prompt)


def test_a_longer_conversation_keeps_its_keys() -> None:
    """A turn appended to a body only adds keys."""
    turn = b'{"role":"user","content":"and then?"},'
    short, long = (prefix_keys(b'{"messages":[' + turn * n) for n in (50, 90))
    assert long[: len(short)] == short
    assert len(long) > len(short)


def test_a_changed_byte_changes_every_key_from_there_on() -> None:
    """One byte in the third chunk: two keys stay, none after."""
    body = bytearray(b'"messages"' + b"x" * 4000)
    before = prefix_keys(bytes(body))
    body[1100] = ord("y")
    after = prefix_keys(bytes(body))
    assert before[:2] == after[:2]
    assert not set(before[2:]) & set(after[2:])


def test_limit_cuts_the_chain() -> None:
    """A caller that holds fewer keys asks for fewer."""
    body = b'"prompt"' + b"x" * 9000
    assert prefix_keys(body, limit=3) == prefix_keys(body)[:3]


@given(
    st.lists(st.sampled_from([*PROMPT_KEYS, b'"', b"messages", b"x" * 511, b"\x00", b"\\", b"input", b"y" * 4090])).map(
        b"".join
    )
)
def test_the_start_is_the_earliest_key(body: bytes) -> None:
    """Searching the head first never changes what is found."""
    found = [at for key in PROMPT_KEYS if (at := body.find(key)) >= 0]
    assert prompt_start(body) == min(found, default=-1)


PIECES = [*PROMPT_KEYS, b'"', b"essages", b"x" * 511, b"\x00", b"input", b"y" * 4090, b"z" * 9999]


@given(st.lists(st.sampled_from(PIECES)).map(b"".join), st.lists(st.integers(0, 40_000)))
def test_a_body_in_pieces_has_the_same_keys(body: bytes, cuts: list[int]) -> None:
    """However it is cut, within prompt keys and chunks too."""
    stream = KeyStream()
    at = 0
    for cut in [*sorted(cuts), len(body)]:
        stream.feed(body[at:cut])
        at = max(at, cut)
    start = prompt_start(body)
    assert tuple(stream.keys) == prefix_keys(body)
    assert stream.body_bytes == len(body)
    assert stream.prompt_bytes == (len(body) - start if start >= 0 else 0)


def test_a_body_byte_by_byte() -> None:
    """The longest chain there is, cut everywhere."""
    body = b'{"model":"m","messages":[' + b"0123456789abcde\n" * 21_000
    stream = KeyStream()
    for at in range(len(body)):
        stream.feed(body[at : at + 1])
    assert len(stream.keys) == MAX_KEYS
    assert tuple(stream.keys) == prefix_keys(body)


SCOPES = (0x160CC5E4984F3BF9, 0x3E4AEA24A2431883, 0x139EFC7D9BDF477B)


def test_scopes_are_these() -> None:
    """murmur3 of salt, model and tenant; nothing known is no scope. Other versions must agree."""
    assert scope_of("") == 0
    assert scope_of("m") == SCOPES[0]
    assert scope_of("m", salt_of("pepper")) == SCOPES[1]
    assert scope_of("m", 0, "acme") == SCOPES[2]
    assert scoped([1, 2], 3) == [2, 1]
    assert salt_of("") == 0
    assert salt_of("pepper") == xxhash.xxh64_intdigest(b"pepper")


def test_scopes_are_not_mistaken_for_one_another() -> None:
    """What ends a model's name does not begin a tenant's."""
    found = {
        scope_of(*whose) for whose in (("ab", 0, "c"), ("a", 0, "bc"), ("abc", 0, ""), ("", 0, "abc"), ("a", 1, ""))
    }
    assert len(found) == 5
