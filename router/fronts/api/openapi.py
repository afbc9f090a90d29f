"""The OpenAPI description of the admin API, made of its table and of the types its handlers decode and encode."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from pointsman.contract.events import JSON_TYPE
from pointsman.contract.http_api import ErrorBody
from pointsman.router.fronts.api.endpoint import Endpoint, Parameter, Schema

REF = "#/components/schemas/{name}"

ERRORS = {
    401: "The bearer token is missing or wrong.",
    403: "No token is set, and the Host is not this machine's or a web page of another origin asks.",
    415: "The body has another media type.",
    422: "A parameter or the body is wrong; nothing changed.",
}
"""Errors that any operation may answer."""

BODY_ERRORS = {400: "The body is not JSON, or not UTF-8.", 413: "The body is too large."}
"""Errors that an operation with a body may answer in addition."""


def describe_api(endpoints: Iterable[Endpoint], version: str) -> dict[str, Any]:
    """An OpenAPI 3.1 document of the endpoints that are not public."""
    described = [endpoint for endpoint in endpoints if not endpoint.public]
    schemas = _Schemas(described)
    paths: dict[str, Any] = {}
    for endpoint in described:
        item = paths.setdefault(endpoint.path, {})
        in_path = [_parameter(parameter) for parameter in endpoint.parameters if parameter.where == "path"]
        if in_path:
            item["parameters"] = in_path
        item[endpoint.method.lower()] = _operation(endpoint, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Pointsman admin API",
            "version": version,
            "description": "Replicas, policy and explanations of one router. Where no token is set (`admin.token`), "
            "only programs on the same machine may ask.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(endpoint: Endpoint, schemas: _Schemas) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, answer in endpoint.answers.items():
        responses[str(status)] = {"description": answer.description}
        if answer.body is not None:
            responses[str(status)]["content"] = _content(schemas.of(answer.body))
    for status, text in {**ERRORS, **(BODY_ERRORS if endpoint.body else {}), **endpoint.errors}.items():
        responses[str(status)] = {"description": text, "content": _content(schemas.of(ErrorBody))}
    operation: dict[str, Any] = {"summary": endpoint.summary, "responses": responses, "security": [{"bearer": []}, {}]}
    if endpoint.body is not None:
        content = _content(schemas.of(endpoint.body), endpoint.media_types)
        operation["requestBody"] = {"required": True, "content": content}
    parameters = [_parameter(parameter) for parameter in endpoint.parameters if parameter.where != "path"]
    return operation | ({"parameters": parameters} if parameters else {})


def _parameter(parameter: Parameter) -> dict[str, Any]:
    described: dict[str, Any] = {"name": parameter.name, "in": parameter.where, "schema": parameter.schema}
    if parameter.where == "path":
        described["required"] = True
    return described | ({"description": parameter.description} if parameter.description else {})


def _content(schema: Schema, media_types: Iterable[str] = (JSON_TYPE,)) -> dict[str, Any]:
    return {media_type: {"schema": schema} for media_type in media_types}


class _Schemas:
    """Schemas of all types that endpoints name. A struct, and a schema with a title, is described once, in
    `components`, and referred to."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        named: list[type | Schema] = [ErrorBody]
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
