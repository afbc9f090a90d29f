"""The OpenAPI description of the admin API, made of its table and of the types its handlers decode and encode."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from pointsman.contract.events import JSON_TYPE
from pointsman.router.fronts.api.endpoint import TAGS, Answer, Endpoint, Parameter, Schema
from pointsman.router.fronts.api.problems import PAGE, PROBLEM_TYPE, Problem

REF = "#/components/schemas/{name}"

LOCAL_ERRORS = {403: "No token is set, and the Host is not this machine's or a web page of another origin asks."}
"""Errors that any operation may answer."""

ERRORS = {
    401: "The bearer token is missing, wrong or expired.",
    403: "The token has not the role. Without any token set: the Host is not this machine's, or a web page of another "
    "origin asks.",
    415: "The body has another media type.",
    422: "A parameter or the body is wrong; nothing changed.",
}
"""Errors that any operation of `/v1` may answer."""

BODY_ERRORS = {400: "The body is not JSON, or not UTF-8.", 413: "The body is too large."}
"""Errors that an operation with a body may answer in addition."""

AUTHOR = Parameter(
    name="X-Pointsman-Author",
    where="header",
    schema={"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9_.@ -]{0,63}$"},
    description="Author of the change in the log of events, where no token is set; otherwise the token's name is.",
)
"""Parameter of every operation that changes something."""

ERROR_HEADERS = {
    401: {"WWW-Authenticate": "The scheme that is expected, `Bearer`."},
    412: {"ETag": "Version of the live document."},
    503: {"Retry-After": "Seconds to wait before the next try."},
}

ABOUT = f"""Replicas, policy, decisions and events of one router.

Where tokens are set (`admin.token`, `admin.tokens_file`), a request shows one as `Authorization: Bearer TOKEN`; the
description of each operation names the roles that allow it. Where none is set, only programs on the router's machine
are served. Errors are problem documents (RFC 9457); their `type` leads to [{PAGE}]({PAGE}). Times are RFC 3339 in UTC;
durations have their unit in their name."""


def describe_api(endpoints: Iterable[Endpoint], version: str) -> dict[str, Any]:
    """An OpenAPI 3.1 document of the endpoints."""
    described = list(endpoints)
    schemas = _Schemas(described)
    paths: dict[str, Any] = {}
    for endpoint in described:
        item = paths.setdefault(endpoint.path, {})
        in_path = [_parameter(parameter) for parameter in endpoint.parameters if parameter.where == "path"]
        if in_path:
            item["parameters"] = in_path
        item[endpoint.method.lower()] = _operation(endpoint, schemas)
    used = {endpoint.tag for endpoint in described}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Pointsman admin API",
            "version": version,
            "description": ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "The admin address of the router that served this description."}],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items() if name in used],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(endpoint: Endpoint, schemas: _Schemas) -> dict[str, Any]:
    responses = {str(status): _answer(answer, schemas) for status, answer in endpoint.answers.items()}
    errors = LOCAL_ERRORS if endpoint.public else ERRORS | (BODY_ERRORS if endpoint.body is not None else {})
    for status, text in {**errors, **endpoint.errors}.items():
        content = {PROBLEM_TYPE: {"schema": schemas.of(Problem)}}
        responses[str(status)] = {"description": text, "content": content} | _headers(ERROR_HEADERS.get(status, {}))
    operation: dict[str, Any] = {
        "operationId": endpoint.operation_id,
        "tags": [endpoint.tag],
        "summary": endpoint.summary,
        "responses": responses,
        # Where no token is set, none is needed.
        "security": [*({"bearer": [str(role)]} for role in endpoint.roles), {}] if endpoint.roles else [],
    }
    if endpoint.roles:
        operation["description"] = f"For tokens with the role {' or '.join(f'`{role}`' for role in endpoint.roles)}."
    if endpoint.body is not None:
        content = {media_type: {"schema": schemas.of(endpoint.body)} for media_type in endpoint.media_types}
        operation["requestBody"] = {"required": True, "content": content}
    parameters = [_parameter(parameter) for parameter in endpoint.parameters if parameter.where != "path"]
    parameters += [_parameter(AUTHOR)] if endpoint.changes else []
    return operation | ({"parameters": parameters} if parameters else {})


def _answer(answer: Answer, schemas: _Schemas) -> dict[str, Any]:
    content = {} if answer.body is None else {JSON_TYPE: {"schema": schemas.of(answer.body)}}
    content |= {media_type: {"schema": schema} for media_type, schema in answer.other.items()}
    return {"description": answer.description} | ({"content": content} if content else {}) | _headers(answer.headers)


def _headers(described: Mapping[str, str]) -> dict[str, Any]:
    headers = {name: {"description": text, "schema": {"type": "string"}} for name, text in described.items()}
    return {"headers": headers} if headers else {}


def _parameter(parameter: Parameter) -> dict[str, Any]:
    described: dict[str, Any] = {"name": parameter.name, "in": parameter.where, "schema": parameter.schema}
    if parameter.where == "path":
        described["required"] = True
    return described | ({"description": parameter.description} if parameter.description else {})


class _Schemas:
    """Schemas of all types that endpoints name. A struct, and a schema with a title, is described once, in
    `components`, and referred to."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        named: list[type | Schema] = [Problem]
        for endpoint in endpoints:
            named += [body for body in (endpoint.body, *(one.body for one in endpoint.answers.values())) if body]
        structs = list(dict.fromkeys(one for one in named if isinstance(one, type)))
        references, components = msgspec.json.schema_components(structs, ref_template=REF)
        self._references = dict(zip(structs, references, strict=True))
        self.components = dict(components)
        for one in named:
            if isinstance(one, Mapping) and "title" in one:
                self.components[one["title"]] = {key: value for key, value in one.items() if key != "title"}

    def of(self, body: type | Schema) -> Schema:
        """Return the reference of an operation to a type."""
        if isinstance(body, type):
            return self._references[body]
        return {"$ref": REF.format(name=body["title"])} if "title" in body else body
