"""The OpenAPI description of the admin API, built from the same types its handlers decode and encode."""

from __future__ import annotations

from typing import Any

import msgspec

from pointsman.contract.bounds import MAX_COUNT
from pointsman.contract.events import MSGPACK_TYPE, EngineEvents, EventsAnswer
from pointsman.contract.pools import POOL_NAME_PATTERN, FleetLease, ScaleOrder
from pointsman.contract.registration import REPLICA_ID_PATTERN, Registration
from pointsman.router.fronts.api.types import (
    Digests,
    EdgeList,
    ErrorBody,
    ExplainAnswer,
    ExplainRequest,
    PolicyList,
    PoolList,
    PoolView,
    ReplicaList,
    ReplicaView,
)

REF = "#/components/schemas/{name}"

_ERRORS = {
    "401": "The bearer token is missing or wrong.",
    "403": "No token is set, and the Host is not this machine's or a web page of another origin asks.",
    "415": "The body has another media type.",
    "422": "A parameter or the body is wrong; nothing changed.",
}
"""What any operation may answer."""

_BODY_ERRORS = {"400": "The body is not JSON, or not UTF-8.", "413": "The body is too large."}
"""And one that reads a body."""

_POLICY_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["policy"],
    "properties": {
        "policy": {"type": "string", "description": "Name of a policy, see GET /v1/policies."},
        "fallback": {"type": "object", "description": "Another policy document, for what this one leaves open."},
    },
    "additionalProperties": True,
}


def describe_api(version: str) -> dict[str, Any]:
    """An OpenAPI 3.1 document."""
    types = (
        Registration, ReplicaView, ReplicaList, EngineEvents, EventsAnswer, PolicyList, ExplainRequest, ExplainAnswer,
        ErrorBody, FleetLease, PoolView, PoolList, ScaleOrder, EdgeList, Digests,
    )  # fmt: skip
    references, components = msgspec.json.schema_components(types, ref_template=REF)
    registration, replica, replica_list, events, events_answer, *others = references
    policy_list, explain_request, explain_answer, error, fleet_lease, pool, pool_list, scale_order, *others = others
    edge_list, digests = others
    components = dict(components)
    components["Policy"] = _POLICY_SCHEMA
    policy = {"$ref": REF.format(name="Policy")}
    replica_id = {
        "name": "id",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "pattern": REPLICA_ID_PATTERN},
    }
    born_ms = {
        "name": "born_ms",
        "in": "query",
        "schema": {"type": "integer", "minimum": 0, "maximum": MAX_COUNT},
        "description": "The replica itself asks, in the life that began then; a later one is left as it is (409).",
    }
    if_match = {
        "name": "If-Match",
        "in": "header",
        "schema": {"type": "string"},
        "description": "Change only if the live policy has this ETag.",
    }
    dry_run = {
        "name": "dry_run",
        "in": "query",
        "schema": {"type": "boolean"},
        "description": "Validate and answer, change nothing.",
    }

    def operation(
        summary: str, answers: dict[str, Any], *, body: Any = None, parameters: list[Any] | None = None,
        errors: dict[str, str] | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        responses: dict[str, Any] = {
            code: {"description": text, "content": _json(schema)} if schema else {"description": text}
            for code, (text, schema) in answers.items()
        }
        for code, text in {**_ERRORS, **(_BODY_ERRORS if body is not None else {}), **(errors or {})}.items():
            responses[code] = {"description": text, "content": _json(error)}
        described: dict[str, Any] = {"summary": summary, "responses": responses, "security": [{"bearer": []}, {}]}
        if body is not None:
            described["requestBody"] = {"required": True, "content": _json(body)}
        if parameters:
            described["parameters"] = parameters
        return described

    unknown = {"404": "No such replica."}
    superseded = {"409": "A later life of the replica is registered."}
    no_pool = {"404": "No such pool; the message names those there are."}
    no_driver = {
        "409": "The driver cannot do it now.",
        "502": "The driver of the pool's fleet gave no answer that can be understood.",
        "503": "The driver of the pool's fleet cannot be reached.",
    }
    unresolved = {"503": "The host name was not resolved in time."}
    no_path = {"404": "No such path: the name in it has a slash."}
    fleet_name = {
        "name": "name",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "pattern": POOL_NAME_PATTERN},
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Pointsman admin API",
            "version": version,
            "description": "Replicas, policy and explanations of one router. Where no token is set (`admin.token`), "
            "only programs on the same machine may ask.",
        },
        "paths": {
            "/v1/replicas": {"get": operation("List replicas", {"200": ("All replicas.", replica_list)})},
            "/v1/replicas/{id}": {
                "parameters": [replica_id],
                "get": operation("Get one replica", {"200": ("The replica.", replica)}, errors=unknown),
                "put": operation(
                    "Register or renew a replica",
                    {"200": ("Renewed or changed.", replica), "201": ("Registered.", replica)},
                    body=registration,
                    errors={
                        "422": "The registration is wrong, or its address is not in `admin.engine_networks`.",
                        "507": "The registry is full.",
                        **no_path,
                        **superseded,
                        **unresolved,
                    },
                ),
                "delete": operation(
                    "Remove a replica; its streams finish",
                    {"204": ("Removed.", None)},
                    parameters=[born_ms],
                    errors={**unknown, **superseded},
                ),
            },
            "/v1/replicas/{id}/drain": {
                "parameters": [replica_id],
                "post": operation(
                    "Route nothing further to a replica",
                    {"200": ("The replica.", replica)},
                    parameters=[born_ms],
                    errors={**unknown, **superseded},
                ),
            },
            "/v1/replicas/{id}/events": {
                "parameters": [replica_id],
                "post": _also_msgpack(
                    operation(
                        "Tell what changed in an engine: prefix keys, first tokens, ends, load",
                        {"200": ("Taken; whether to send all of it again, and how often to tell.", events_answer)},
                        body=events,
                        errors={
                            **unknown,
                            "400": "The body is neither JSON nor msgpack, or not UTF-8.",
                            "415": "The media type is neither JSON nor msgpack.",
                        },
                    )
                ),
            },
            "/v1/fleets/{name}": {
                "parameters": [fleet_name],
                "put": operation(
                    "Lease pools: take orders for them until the lease ends",
                    {"201": ("Known from here on.", None), "204": ("Renewed.", None)},
                    body=fleet_lease,
                    errors={
                        "409": "A pool belongs to another fleet.",
                        "507": "There are too many fleets.",
                        **no_path,
                        **unresolved,
                    },
                ),
                "delete": operation(
                    "Give the pools up", {"204": ("Forgotten.", None)}, errors={"404": "No such fleet."}
                ),
            },
            "/v1/pools": {"get": operation("List pools", {"200": ("All pools.", pool_list)})},
            "/v1/pools/{name}": {
                "parameters": [fleet_name],
                "get": operation("Get one pool", {"200": ("The pool.", pool)}, errors=no_pool),
                "put": operation(
                    "Change a pool: its replicas are rolled one by one",
                    {"202": ("Understood; the pool as it is.", pool)},
                    body={
                        "type": "object",
                        "description": "A pool as in the fleet's file, see docs/how-to-run-a-fleet.md.",
                    },
                    errors={**no_pool, **no_driver},
                ),
            },
            "/v1/pools/{name}/scale": {
                "parameters": [fleet_name],
                "post": operation(
                    "Say how many replicas a pool shall have",
                    {"202": ("Understood; the pool as it is.", pool)},
                    body=scale_order,
                    errors={**no_pool, **no_driver},
                ),
            },
            "/v1/policies": {"get": operation("List the policies there are", {"200": ("Policies.", policy_list)})},
            "/v1/policy": {
                "get": operation("Get the live policy", {"200": ("The document, with an ETag.", policy)}),
                "put": operation(
                    "Put a policy live",
                    {
                        "200": (
                            "The document as applied, with an ETag. `warnings`, where there are any, say what "
                            "keeps the policy from working as it should.",
                            policy,
                        )
                    },
                    body=policy,
                    parameters=[if_match, dry_run],
                    errors={"412": "If-Match names another version."},
                ),
            },
            "/v1/edges": {
                "get": operation("List the other edges this one shares with", {"200": ("The edges.", edge_list)})
            },
            "/v1/state/digests": {
                "get": operation(
                    "Numbers that are equal on two edges exactly when they know the same",
                    {"200": ("By kind of thing.", digests)},
                )
            },
            "/v1/explain": {
                "post": operation(
                    "Say what would be decided for a request, and why",
                    {"200": ("Decision and candidates.", explain_answer)},
                    body=explain_request,
                )
            },
        },
        "components": {
            "schemas": components,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _also_msgpack(operation: dict[str, Any]) -> dict[str, Any]:
    """The same body may come as msgpack."""
    content = operation["requestBody"]["content"]
    content[MSGPACK_TYPE] = next(iter(content.values()))
    return operation


def _json(schema: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
