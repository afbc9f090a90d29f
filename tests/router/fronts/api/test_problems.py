"""Refusals as problem documents."""

from __future__ import annotations

import httpx
import msgspec
import pytest
from router_fixture import client_of, running_router
from starlette.exceptions import HTTPException

from pointsman.contract.http_api import unfit
from pointsman.router.app import Router
from pointsman.router.fronts.api.problems import KINDS, answer_problem, problem_of, refusal
from pointsman.router.fronts.api.table import ENDPOINTS
from pointsman.router.settings import load_settings


def test_each_status_that_an_operation_declares_has_a_kind() -> None:
    """`about:blank` would lead nowhere."""
    declared = {status for endpoint in ENDPOINTS for status in endpoint.errors}
    assert declared | {400, 401, 403, 405, 413, 415, 422, 500} <= {kind.status for kind in KINDS}
    assert len({kind.slug for kind in KINDS}) == len(KINDS)


def test_the_first_kind_of_a_status_is_the_usual_one() -> None:
    """Another is asked for by name."""
    assert problem_of(HTTPException(503, "x")).type == "/docs/problems#unavailable"
    assert problem_of(refusal("too-many-followers", "x")).type == "/docs/problems#too-many-followers"
    assert problem_of(HTTPException(418, "x")).title == "I'm a Teapot"


async def test_a_refusal_about_a_field_names_it() -> None:
    """Its path, and what may stand there; other refusals have no such members."""
    problem = msgspec.to_builtins(problem_of(unfit("fallback.ttl_s", -1, "a number above 0")))
    assert problem == {
        "type": "/docs/problems#unfit-value",
        "title": "A value, a field or a parameter is wrong",
        "status": 422,
        "detail": "fallback.ttl_s: got -1, expected a number above 0",
        "key": "fallback.ttl_s",
        "expected": "a number above 0",
    }
    answer = await answer_problem(None, HTTPException(404, "x", {"x-a": "b"}))  # type: ignore[arg-type]
    assert answer.media_type == "application/problem+json" and answer.headers["x-a"] == "b"
    assert set(msgspec.json.decode(answer.body)) == {"type", "title", "status", "detail"}


@pytest.mark.parametrize(
    ("method", "path", "body", "key", "says"),
    [
        ("PUT", "/v1/policy", {"policy": "kv_cots"}, "policy", "expected one of"),
        ("PUT", "/v1/policy", {"policy": "kv_cost", "tie_mss": 1}, "tie_mss", "did you mean 'tie_ms'?"),
        ("PUT", "/v1/replicas/a", {"url": "http://127.0.0.1:1", "ttl": 1}, "ttl", "did you mean 'ttl_s'?"),
        ("PUT", "/v1/replicas/a", {"url": "ftp://x"}, "url", "http"),
        ("POST", "/v1/explain", {"sesion": "x"}, "sesion", "did you mean 'session'?"),
        ("DELETE", "/v1/replicas/a?born=1", None, None, "did you mean 'born_ms'?"),
    ],
)
async def test_the_nearest_known_name_is_in_the_sentence(
    method: str, path: str, body: object, key: str | None, says: str
) -> None:
    """Of unknown fields and parameters."""
    async with running_router() as router, client_of(router) as client:
        answer = await client.request(method, path, json=body)
        problem = answer.json()
        assert answer.status_code == 422 and says in problem["detail"], problem
        assert problem.get("key") == key


async def test_an_error_of_the_router_is_a_problem_too() -> None:
    """Without what it was, which is in the log; uvicorn gets the exception."""
    router = Router(load_settings(environment={}, overrides={"admin": {"port": 0}}))
    app = router.admin.app()
    router.core.policy.put = None  # type: ignore[assignment, method-assign]
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        answer = await client.put("/v1/policy", json={"policy": "random"})
        assert answer.status_code == 500 and answer.json()["type"] == "/docs/problems#internal-error"
        assert "NoneType" not in answer.text
