"""The rows of the admin API that are about keys and tenants; part of `pointsman.router.fronts.api.table`."""

from __future__ import annotations

from typing import get_args

from pointsman.router.fronts.api.endpoint import Answer, Endpoint, Parameter
from pointsman.router.fronts.api.etag import IF_MATCH, STALE, VERSION
from pointsman.router.fronts.api.key_types import (
    KeyList,
    KeyRotation,
    KeySettings,
    KeyState,
    KeyView,
    NewKey,
    TenantList,
    TenantSettings,
    TenantView,
)
from pointsman.router.fronts.api.keys import KeysFront
from pointsman.router.fronts.api.paging import PAGE
from pointsman.router.fronts.api.tenants import TenantsFront
from pointsman.router.tenancy.records import KEY_ID_PATTERN, TENANT_PATTERN

KEY_ID = Parameter(name="id", where="path", schema={"type": "string", "pattern": KEY_ID_PATTERN})
TENANT_NAME = Parameter(name="name", where="path", schema={"type": "string", "pattern": TENANT_PATTERN})
TENANT = Parameter(name="tenant", where="query", schema={"type": "string"}, description="Tenant of the keys.")
STATE = Parameter(
    name="state",
    where="query",
    schema={"type": "string", "enum": list(get_args(KeyState))},
    description="State of the keys.",
)

NO_KEY = {404: "No such key."}
REVOKED = {409: "The key is revoked."}
FULL = {507: "There are as many as may be."}
SECRET = Answer("The key with its secret, which no other answer has.", KeyView, headers=VERSION)
KEY = Answer("The key, without its secret.", KeyView, headers=VERSION)
TENANT_ANSWER = Answer("The tenant.", TenantView, headers=VERSION)

TENANCY_ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "GET", "/v1/keys", KeysFront.list_keys, "List API keys, without their secrets",
        parameters=(TENANT, STATE, *PAGE), answers={200: Answer("The keys, by id.", KeyList)},
    ),
    Endpoint(
        "POST", "/v1/keys", KeysFront.create_key, "Make an API key; its secret is shown this once",
        body=NewKey, answers={201: SECRET}, errors=FULL,
    ),
    Endpoint(
        "GET", "/v1/keys/{id}", KeysFront.get_key, "Get one API key",
        parameters=(KEY_ID,), answers={200: KEY}, errors=NO_KEY,
    ),
    Endpoint(
        "PUT", "/v1/keys/{id}", KeysFront.change_key, "Change what an API key may do",
        parameters=(KEY_ID, IF_MATCH), body=KeySettings, answers={200: KEY}, errors={**NO_KEY, **REVOKED, **STALE},
    ),
    Endpoint(
        "DELETE", "/v1/keys/{id}", KeysFront.revoke_key, "Revoke an API key on all edges; running streams finish",
        parameters=(KEY_ID, IF_MATCH), answers={204: Answer("Revoked.")}, errors={**NO_KEY, **STALE},
    ),
    Endpoint(
        "POST", "/v1/keys/{id}/rotate", KeysFront.rotate_key, "Give an API key a new secret; it is shown this once",
        parameters=(KEY_ID, IF_MATCH), body=KeyRotation, answers={200: SECRET},
        errors={**NO_KEY, **REVOKED, **STALE},
    ),
    Endpoint(
        "GET", "/v1/tenants", TenantsFront.list_tenants, "List tenants",
        parameters=PAGE, answers={200: Answer("The tenants, by name.", TenantList)},
    ),
    Endpoint(
        "GET", "/v1/tenants/{name}", TenantsFront.get_tenant, "Get one tenant",
        parameters=(TENANT_NAME,), answers={200: TENANT_ANSWER},
        errors={404: "The tenant has neither settings nor keys."},
    ),
    Endpoint(
        "PUT", "/v1/tenants/{name}", TenantsFront.put_tenant, "Set a tenant's share, limits and pools",
        parameters=(TENANT_NAME, IF_MATCH), body=TenantSettings, answers={200: TENANT_ANSWER},
        errors={**FULL, **STALE},
    ),
    Endpoint(
        "DELETE", "/v1/tenants/{name}", TenantsFront.delete_tenant,
        "Remove a tenant's settings: it has the defaults; its keys stay",
        parameters=(TENANT_NAME, IF_MATCH), answers={204: Answer("Removed.")},
        errors={404: "The tenant has no settings.", **STALE},
    ),
)  # fmt: skip
