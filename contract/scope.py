"""Scope of a request's prefix keys, as its replica determines it: the router's, else from the request."""

from __future__ import annotations

from pointsman.contract.prefix_keys import salt_of, scope_of


def request_scope(header: str, model: str, cache_salt: str) -> tuple[int, str]:
    """Scope of a request's keys, and the tenant its KV is to be kept to; empty for none.

    `header` is the value of `pointsman.contract.prefix_keys.SCOPE_HEADER`. Without one nobody routed the request by its
    keys; they are scoped by its true model, or adapter, and salt, as a router would have done.
    """
    number, _, tenant = header.partition(" ")
    try:
        return int(number, 16) & (2**64 - 1), tenant
    except ValueError:
        return scope_of(model, salt_of(cache_salt)), ""


def tenant_salt(tenant: str, cache_salt: str) -> str:
    """The salt that keeps a tenant's KV apart from that of others, its own salts apart from one another included."""
    return f"{tenant} {cache_salt}" if tenant else cache_salt
