"""What HAProxy tells the router, made in Python; tests/e2e/test_haproxy_lookup_arguments.py holds it to HAProxy."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.contract.prefix_keys import prefix_keys, scope_of, scoped
from pointsman.haproxy import body_model, lookup_arguments
from pointsman.haproxy.lookup_arguments import PlainRequest, is_asked, seen_bytes
from pointsman.haproxy.lookup_rules import LookupRules
from pointsman.policies.request import Naming, RequestFeatures
from pointsman.router.decide import features
from pointsman.router.decide.body_needs import BodyNeeds
from pointsman.router.decide.features import extract

CHAT = "/v1/chat/completions"
BODY = b'{"messages":["' + b"x" * 3000 + b'"],"model":"m","max_tokens":7,"user":"u"}'
BY_KV = BodyNeeds.PREFIX_KEYS | BodyNeeds.FIELDS_WITHOUT_SESSION


def read(request: PlainRequest, needs: int = BY_KV, window_bytes: int = 65536, **rules: Any) -> RequestFeatures:
    """What the router reads of a request."""
    arguments = lookup_arguments.lookup_arguments(
        request, LookupRules(**rules), needs=needs, window_bytes=window_bytes, tenant="acme"
    )
    return extract(arguments)


def test_a_request_becomes_the_features_of_a_lookup() -> None:
    found = read(PlainRequest(CHAT, (("X-Session-Id", " s "),), BODY))
    assert (found.path, found.session, found.tenant, found.model, found.max_tokens) == (CHAT, "s", "acme", "m", 7)
    assert (found.body_bytes, found.missing_bytes, found.generates) == (len(BODY), 0, True)
    assert found.prefix_keys == tuple(scoped(prefix_keys(BODY), scope_of("m")))


def test_a_version_is_told_where_a_header_for_it_is_allowed() -> None:
    """And only there."""
    request = PlainRequest(CHAT, (("X-Model-Version", "m-v2"),), BODY)
    for header, told in (("x-model-version", b"m-v2"), ("", None)):
        rules = LookupRules(version_header=header)
        arguments = lookup_arguments.lookup_arguments(request, rules, needs=BY_KV, window_bytes=65536)
        assert arguments.get("version") == told


@pytest.mark.parametrize(
    ("headers", "session"),
    [
        pytest.param((), "u", id="the body's"),
        pytest.param((("x-session-id", "h"),), "h", id="a header goes before the body"),
        pytest.param((("thread-id", "t"), ("x-session-id", "h")), "h", id="the order is that of the settings"),
        pytest.param((("x-session-id", " "), ("thread-id", "t")), "t", id="an empty header is none"),
        pytest.param((("x-session-id", "1"), ("X-SESSION-ID", "2")), "1", id="the first of two"),
    ],
)
def test_the_session_is_found(headers: tuple[tuple[str, str], ...], session: str) -> None:
    assert read(PlainRequest(CHAT, headers, BODY)).session == session


@pytest.mark.parametrize(
    ("path", "headers", "body", "model", "naming"),
    [
        pytest.param(CHAT, (("x-model", "h"),), BODY, "m", Naming.NAMED, id="the body goes before the header"),
        pytest.param(CHAT, (("x-model", "h"),), b"{}", "h", Naming.NAMED, id="the header"),
        pytest.param(CHAT, (("x-model", "h"), ("X-Model", "i")), b"{}", "i", Naming.NAMED, id="the last header"),
        pytest.param(CHAT, (("x-model", "x" * 300),), b"{}", "", Naming.ABSENT, id="no name"),
        pytest.param("/p", (), b"{}", "of the path", Naming.NAMED, id="the path's"),
        pytest.param("/v1/embeddings", (), b"{}", "", Naming.NAMED, id="no generation: any model"),
        pytest.param("/v1/embeddings", (), b'{"model":"', "", Naming.UNSEEN, id="cut in the name"),
    ],
)
def test_the_model_is_found(
    path: str, headers: tuple[tuple[str, str], ...], body: bytes, model: str, naming: Naming
) -> None:
    cut = PlainRequest(path, headers, body + b" " * 40_000) if naming is Naming.UNSEEN else None
    found = read(cut or PlainRequest(path, headers, body), window_bytes=0, path_models={"/p": "of the path"})
    assert (found.model, found.naming) == (model, naming)


def test_only_what_the_policy_needs_is_read() -> None:
    """0 asks without the body; 4 reads it only where no header names the session."""
    request = PlainRequest(CHAT, (), BODY)
    assert read(request, 0) == RequestFeatures(request_id="", path=CHAT, tenant="acme", body_bytes=len(BODY))
    assert read(request, 4).session == "u" and not read(request, 4).prefix_keys
    named = PlainRequest(CHAT, (("x-session-id", "s"),), BODY)
    assert read(named, 4).model == "" and read(named, 1).model == "m"


def test_what_generates_nothing_is_asked_about_where_several_models_are_served() -> None:
    rules = LookupRules()
    assert is_asked(CHAT, rules, 0) and not is_asked("/v1/embeddings", rules, int(BY_KV))
    assert is_asked("/v1/embeddings", rules, int(BodyNeeds.MODELS))
    assert not read(PlainRequest("/v1/embeddings", (), BODY)).generates


def test_another_policy_may_be_asked_for_where_that_is_allowed() -> None:
    request = PlainRequest(CHAT, (("x-pointsman-policy", "random"),), BODY)
    assert read(request).policy == "" and read(request, policy_override=True).policy == "random"


def test_of_a_long_body_no_more_than_a_buffer_is_seen() -> None:
    """At least the window; headers take of the room behind it."""
    long = PlainRequest(CHAT, (), BODY[:-1] + b" " * 100_000)
    for headers in ((), (("x-long", "v" * 5000),), (("x-long", "v" * 50_000),)):
        seen = seen_bytes(long._replace(headers=headers), 65536)
        assert 65536 <= seen <= 65536 + 12_288
        assert read(long._replace(headers=headers)).body_bytes == len(long.body)
    assert seen_bytes(PlainRequest(CHAT, (), BODY), 0) == len(BODY)


def test_the_words_of_both_sides_are_the_same() -> None:
    """HAProxy's side imports nothing of the router's."""
    assert tuple(Naming) == (body_model.NAMED, body_model.ABSENT, body_model.UNSEEN)
    assert lookup_arguments.NAMING_SHIFT == features.NAMING_SHIFT
    assert lookup_arguments.GENERATES_NOTHING == features.GENERATES_NOTHING
    needs = (BodyNeeds.FIELDS, BodyNeeds.PREFIX_KEYS, BodyNeeds.FIELDS_WITHOUT_SESSION, BodyNeeds.MODELS)
    ours = lookup_arguments
    assert needs == (ours.NEEDS_FIELDS, ours.NEEDS_KEYS, ours.NEEDS_FIELDS_WITHOUT_SESSION, ours.NEEDS_MODELS)


@given(
    st.text(max_size=20),
    st.lists(st.tuples(st.sampled_from(["x-session-id", "x-model", "thread-id"]), st.text(max_size=300)), max_size=4),
    st.binary(max_size=2000),
    st.integers(0, 15),
)
def test_any_request_is_read(path: str, headers: list[tuple[str, str]], body: bytes, needs: int) -> None:
    """Whatever somebody asks about, there are features."""
    assert read(PlainRequest(path, tuple(headers), body), needs).body_bytes in (0, len(body))
