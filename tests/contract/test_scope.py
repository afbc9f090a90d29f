"""Whose prefix keys a request's are."""

from pointsman.contract.prefix_keys import salt_of, scope_of
from pointsman.contract.scope import request_scope, tenant_salt


def test_the_router_says_scope_and_tenant() -> None:
    """Sixteen hexadecimal digits and, behind a blank, the tenant."""
    assert request_scope("00000000000000ff acme", "m", "salt") == (255, "acme")
    assert request_scope("00000000000000ff", "m", "") == (255, "")


def test_a_request_that_nobody_routed_is_scoped_alike() -> None:
    """By its model and its salt, as a router would have done; a header that makes no sense counts as none."""
    expected = (scope_of("m", salt_of("salt")), "")
    assert request_scope("", "m", "salt") == request_scope("no number acme", "m", "salt") == expected
    assert request_scope("", "m", "other") != expected


def test_salts_of_tenants_never_meet() -> None:
    """Two tenants with one salt, and one tenant with two, all have KV of their own."""
    salts = {tenant_salt(tenant, salt) for tenant in ("a", "b") for salt in ("x", "y", "")}
    assert len(salts) == 6
    assert tenant_salt("", "x") == "x"
