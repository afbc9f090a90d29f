"""The client of the admin API for people: bytes as they came, refusals as sentences, streams line by line."""

from __future__ import annotations

import socket

import pytest
from telling_admin import Told, problem, telling_admin

from pointsman.admin_client import AdminClient, MissingOperationError, RefusedError, UnaskableError, segment
from pointsman.admin_place import TOKEN_VARIABLE, Place


def test_an_answer_keeps_its_bytes() -> None:
    """`--json` prints them, so not one blank may change."""
    body = b'{"replicas" : [ ]}'
    with telling_admin({"GET /v1/replicas": Told(body, headers={"ETag": '"7"', "x-pointsman-revision": "3"})}) as admin:
        with AdminClient(Place(admin.url)) as client:
            answer = client.get("/v1/replicas", model="m", pool="", role=None)
        assert answer.body == body and answer.json() == {"replicas": []}
        assert (answer.etag, answer.revision) == ('"7"', "3")
        assert admin.asked[0].query == {"model": "m"}


def test_flags_are_spelled_as_the_api_spells_them() -> None:
    """True is `true`, and false is not sent."""
    with telling_admin({"PUT /v1/policy": {}}) as admin, AdminClient(Place(admin.url)) as client:
        client.call("PUT", "/v1/policy", query={"dry_run": True, "other": False}, body={"policy": "random"})
        assert admin.asked[0].query == {"dry_run": "true"} and admin.asked[0].body == {"policy": "random"}


def test_the_token_is_sent_as_a_bearer() -> None:
    """And nothing where there is none."""
    with telling_admin({"GET /v1/whoami": {}}) as admin:
        for token in ("secret", ""):
            with AdminClient(Place(admin.url, token)) as client:
                client.get("/v1/whoami")
        assert [asked.headers.get("authorization") for asked in admin.asked] == ["Bearer secret", None]
        assert "secret" not in repr(Place(admin.url, "secret"))


def test_a_refusal_is_its_detail() -> None:
    """The problem document stays at hand."""
    with telling_admin({"GET /v1/replicas/x": problem(404, "replica 'x' is not registered")}) as admin:
        with AdminClient(Place(admin.url)) as client, pytest.raises(RefusedError, match="'x' is not") as refused:
            client.get("/v1/replicas/x")
        assert refused.value.status == 404 and b'"detail"' in refused.value.body


def test_a_path_that_the_router_does_not_have_is_told_from_a_thing_it_does_not_have() -> None:
    """A router of another version: no answer to the question that was asked."""
    missing = pytest.raises(MissingOperationError, match=r"has no GET /v1/status.*version")
    with telling_admin({}) as admin, AdminClient(Place(admin.url)) as client, missing:
        client.get("/v1/status")


@pytest.mark.parametrize(("token", "says"), [("", "set POINTSMAN_ADMIN__TOKEN"), ("old", "no longer valid")])
def test_a_missing_token_names_the_variable_and_a_wrong_one_says_so(token: str, says: str) -> None:
    """Both name the command that makes one."""
    with telling_admin({"GET /v1/replicas": problem(401, "a valid bearer token is expected")}) as admin:
        with AdminClient(Place(admin.url, token)) as client, pytest.raises(UnaskableError) as refused:
            client.get("/v1/replicas")
        assert says in str(refused.value) and TOKEN_VARIABLE in str(refused.value)
        assert "pointsman token create" in str(refused.value)


def test_a_missing_role_says_which_one() -> None:
    """The router's own sentence."""
    answers = {"POST /v1/replicas/x/drain": problem(403, "needs the role operate; 'eve' has: read")}
    refused = pytest.raises(UnaskableError, match="needs the role operate")
    with telling_admin(answers) as admin, AdminClient(Place(admin.url, "t")) as client, refused:
        client.call("POST", "/v1/replicas/x/drain")


def test_nobody_at_the_address_says_what_to_do() -> None:
    """Start an edge, or name another."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with AdminClient(Place(url)) as client, pytest.raises(UnaskableError) as refused:
            client.get("/v1/replicas")
    assert str(refused.value).startswith(f"--admin: {url}: Connection refused; `pointsman up`")
    assert "POINTSMAN_ADMIN_URL" in str(refused.value)


def test_something_else_at_the_address_is_no_traceback() -> None:
    """A page, or an error of a proxy."""
    page = Told(b"<html>", headers={"content-type": "text/html"})
    answers = {"GET /v1/replicas": page, "GET /v1/edges": Told(b"bad gateway", 502)}
    with telling_admin(answers) as admin, AdminClient(Place(admin.url)) as client:
        with pytest.raises(UnaskableError, match="no JSON"):
            client.get("/v1/replicas").json()
        with pytest.raises(UnaskableError, match="answered 502: bad gateway"):
            client.get("/v1/edges")


def test_a_stream_brings_documents_and_signs_of_life() -> None:
    """Until the router ends it."""
    stream = Told(lines=(b"", b'{"id": 1}', b'{"missed": 2}'))
    with telling_admin({"GET /v1/events": stream}) as admin, AdminClient(Place(admin.url)) as client:
        assert list(client.follow("/v1/events", limit=3)) == [b"", b'{"id": 1}', b'{"missed": 2}']
        assert admin.asked[0].query == {"limit": "3", "follow": "true"}


def test_a_refused_stream_is_a_refusal() -> None:
    """For example a filter that does not exist."""
    answers = {"GET /v1/events": problem(422, "kind: got 'x', expected audit")}
    refused = pytest.raises(RefusedError, match="got 'x'")
    with telling_admin(answers) as admin, AdminClient(Place(admin.url)) as client, refused:
        list(client.follow("/v1/events", kind="x"))


def test_a_name_is_one_segment_of_a_path() -> None:
    """A slash in a session's name leads nowhere else."""
    assert segment("a/b c") == "a%2Fb%20c"
