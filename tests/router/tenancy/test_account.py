"""What is left of the limits of one tenant, key and model."""

from typing import Any

from pointsman.router.tenancy.account import Account
from pointsman.router.tenancy.allowance import Allowance
from pointsman.router.tenancy.records import Limits


def allowance(**limits: Any) -> Allowance:
    return Allowance("tenant/t", Limits(**limits), 0.0)


def test_each_request_is_told_what_is_left_of_a_small_limit() -> None:
    """To the request, and again when time has given something back."""
    one = allowance(requests_per_minute=60, tokens_per_minute=6000)
    account = Account((one,))
    assert account.left(1.0) == b"60/6/0/6000/600/0"
    one.take(100)
    assert account.left(1.0) == b"60/5/1/6000/500/1"
    one.take(100)
    assert account.left(1.0) == b"60/4/2/6000/400/2"
    one.refuses(1.0, lambda: 0.0, 1.0)
    assert account.left(1.0) == b"60/5/1/6000/500/1"


def test_what_is_left_is_right_to_a_hundredth_of_the_burst() -> None:
    """It is written anew only beyond that, in either direction."""
    one = allowance(tokens_per_minute=600_000)
    account = Account((one,))
    assert account.left(1.0) == b"///600000/60000/0"
    one.take(600)
    assert account.left(1.0) == b"///600000/60000/0"
    one.take(1)
    assert account.left(1.0) == b"///600000/59399/1"
    one.settle(-601)
    assert account.left(1.0) == b"///600000/60000/0"


def test_the_nearest_limit_of_each_kind_is_told() -> None:
    """Also where one that was farther away was used by others."""
    tenant, key = allowance(requests_per_minute=600, tokens_per_minute=6000), allowance(requests_per_minute=120)
    account, others = Account((tenant, key)), Account((tenant,))
    assert account.left(1.0) == b"120/12/0/6000/600/0"
    for _ in range(55):
        tenant.take(0)
    assert account.left(1.0) == b"600/5/6/6000/600/0"
    assert others.left(1.0) == b"600/5/6/6000/600/0"


def test_an_edge_that_cannot_hear_the_others_says_when_its_part_is_back() -> None:
    """Twice the time at half of the limit."""
    one = allowance(requests_per_minute=60)
    one.take(0)
    account = Account((one,))
    assert [account.left(share) for share in (1.0, 0.5, 1.0)] == [b"60/5/1///", b"60/5/2///", b"60/5/1///"]


def test_where_nothing_a_minute_is_limited_nothing_is_told() -> None:
    """Other limits have no headers."""
    assert Account(()).left(1.0) == Account((allowance(concurrent_requests=3),)).left(1.0) == b""
