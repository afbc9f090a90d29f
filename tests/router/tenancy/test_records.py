"""Documents about tenants and keys: what they may say."""

import msgspec
import pytest

from pointsman.policies.request import Priority
from pointsman.router.tenancy.records import NO_LIMITS, ApiKey, Limits, Tenant


def test_priority_classes_are_ordered_and_named() -> None:
    """The greater goes first; names are lower case."""
    assert Priority.BATCH < Priority.LOW < Priority.NORMAL < Priority.HIGH < Priority.CRITICAL
    assert [Priority.of(name) for name in ("batch", "critical", "CRITICAL", "first", "")] == [
        Priority.BATCH,
        Priority.CRITICAL,
        None,
        None,
        None,
    ]
    assert all(Priority.of(priority.label) is priority for priority in Priority)


def test_a_key_is_in_force_until_it_expires_or_is_revoked() -> None:
    """The moment of expiry itself is past."""
    key = ApiKey(id="a" * 12, tenant="acme", hash="0" * 64, created_s=0.0, expires_s=10.0)
    assert [key.in_force(now_s) for now_s in (0.0, 9.9, 10.0)] == [True, True, False]
    assert not msgspec.structs.replace(key, revoked_s=1.0).in_force(2.0)


def test_limits_that_bound_nothing_are_told() -> None:
    """A weight alone is no bound; a bound of zero is one."""
    assert not NO_LIMITS.bounds_anything
    assert not Limits(cached_weight=0.1).bounds_anything
    assert Limits(tokens_per_day=0).bounds_anything


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "with space"},
        {"name": "a,b"},
        {"name": "t", "weight": 0},
        {"name": "t", "priority": "first"},
        {"name": "t", "limits": {"tokens_per_minute": -1}},
        {"name": "t", "limits": {"cached_weight": 1.5}},
    ],
)
def test_a_tenant_with_an_unfit_value_is_refused(wrong: dict[str, object]) -> None:
    """Names go into maps and labels; shares and limits are no negative numbers."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, Tenant)
