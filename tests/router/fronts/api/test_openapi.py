"""The description of the admin API and the API: what one says, the other does.

schemathesis makes requests from the description, fitting and unfitting ones, and holds the answers to it. A longer run
by hand: CASES=2000 .venv/bin/python -m pytest -m 'not vllm' tests/router/fronts/api/test_openapi.py
"""

from __future__ import annotations

import os
import re
from typing import Any

import httpx
import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from openapi_spec_validator import validate
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from pointsman.contract.tokens import TokenRole
from pointsman.router.app import Router
from pointsman.router.fronts.api.endpoint import TAGS
from pointsman.router.fronts.api.openapi import describe_api
from pointsman.router.fronts.api.table import ENDPOINTS
from pointsman.router.settings import load_settings

pytestmark = pytest.mark.xdist_group("openapi")

CASES = int(os.environ.get("CASES", "12"))
"""Requests of each kind to each operation."""

ANY_HEALTH = list(HealthCheck)

HOST = {"host": "127.0.0.1"}
CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance, not_a_server_error]
FITTING, UNFITTING = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
OPERATIONS = sorted(
    (path, method)
    for path, item in describe_api(ENDPOINTS, "1")["paths"].items()
    for method in item
    if method != "parameters"
)  # fmt: skip
PROBES = {"/readyz"}
"""Paths whose 503 is an answer and no fault."""


@pytest.fixture(scope="module")
def router() -> Router:
    """A router that listens nowhere: its app is called in this process."""
    router = Router(load_settings(environment={}, overrides={"admin": {"port": 0}}))
    router.streams.close()  # each stream ends after what there is
    return router


@pytest.fixture(scope="module")
def schema(router: Router) -> Any:
    return schemathesis.openapi.from_asgi("/openapi.json", router.admin.app(), headers=HOST)


@pytest.mark.parametrize("mode", [FITTING, UNFITTING], ids=["fitting", "unfitting"])
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_every_answer_is_documented(schema: Any, path: str, method: str, mode: GenerationMode) -> None:
    """Status, media type and shape, whatever the request; never a 5xx, for no driver is known."""
    operation = schema[path][method]
    checks = [check for check in CHECKS if check is not not_a_server_error or path not in PROBES]
    if mode is UNFITTING and not (operation.body or operation.path_parameters or operation.query):
        return  # there is nothing to get wrong
    requests = operation.as_strategy(generation_mode=mode, media_type="application/json" if operation.body else None)

    @settings(max_examples=CASES, deadline=None, derandomize=True, database=None, suppress_health_check=ANY_HEALTH)
    @given(requests)
    def ask(case: Any) -> None:
        answer = case.call(headers=HOST)
        case.validate_response(answer, checks=checks)

    ask()


def test_the_description_is_valid() -> None:
    """OpenAPI 3.1."""
    validate(msgspec.json.decode(msgspec.json.encode(describe_api(ENDPOINTS, "1"))))


async def test_every_refusal_is_in_the_description(router: Router) -> None:
    """What the checks before a handler answer is declared for each operation, and nothing else is needed to meet it."""
    paths = describe_api(ENDPOINTS, "1")["paths"]
    transport = httpx.ASGITransport(router.admin.app())
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        for endpoint in ENDPOINTS:
            url = endpoint.path.format(id="a", name="a", revision=1, key="a")
            declared = {int(code) for code in paths[endpoint.path][endpoint.method.lower()]["responses"]}
            wrong: dict[int, dict[str, Any]] = {403: {"headers": {"host": "rebind.example"}}}
            if not endpoint.public:
                wrong[415] = {"headers": {"content-type": "text/plain"}, "content": b"{}"}
                wrong[422] = {"params": {"dryrun": "true"}}
            for status, request in wrong.items():
                answer = await client.request(endpoint.method, url, **request)
                assert answer.status_code == status and status in declared, f"{endpoint.operation_id}: {answer.text}"


def test_operations_have_ids_of_their_own() -> None:
    """In camel case, for generated clients; `listReplicas` stays what it is."""
    names = [endpoint.operation_id for endpoint in ENDPOINTS]
    assert len(set(names)) == len(names) and "listReplicas" in names
    assert all(re.fullmatch(r"[a-z]+([A-Z][a-z0-9]*)*", name) for name in names), names


def test_if_match_is_described_once() -> None:
    """One header with one meaning, declared in one place."""
    declared = [one for endpoint in ENDPOINTS for one in endpoint.parameters if one.name.lower() == "if-match"]
    assert len(declared) > 5 and len({id(one) for one in declared}) == 1


def test_schemas_have_names_of_their_own() -> None:
    """Two structs of one name are told apart by their modules, and generators of clients stop at such names."""
    names = describe_api(ENDPOINTS, "1")["components"]["schemas"]
    assert all(name.isidentifier() for name in names), [name for name in names if not name.isidentifier()]


def test_every_tag_is_explained() -> None:
    """A new noun in a path has a line in TAGS, and no line is left over."""
    used = {endpoint.tag for endpoint in ENDPOINTS}
    assert used <= set(TAGS), f"{used - set(TAGS)}: explain them in TAGS"
    assert {tag["name"] for tag in describe_api(ENDPOINTS, "1")["tags"]} == used


def test_calls_of_engines_are_apart() -> None:
    """Somebody who reads the operations of people need not read those of replicas and drivers."""
    engines = {endpoint.path for endpoint in ENDPOINTS if endpoint.tag == "engines"}
    assert engines == {"/v1/replicas/{id}", "/v1/replicas/{id}/events", "/v1/fleets/{name}"}
    assert all(TokenRole.ENGINE in endpoint.roles for endpoint in ENDPOINTS if endpoint.tag == "engines")


def test_who_may_operate_may_see() -> None:
    """A token with the role operate needs no second role to look at what it changes."""
    for endpoint in ENDPOINTS:
        assert TokenRole.READ not in endpoint.roles or TokenRole.OPERATE in endpoint.roles, endpoint.operation_id
