"""Limits of tenants and keys: who is let in, what is taken, what is settled."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pointsman.router.documents.book import Book
from pointsman.router.tenancy import limits as module
from pointsman.router.tenancy.allowance import Use
from pointsman.router.tenancy.keys import KeyTable
from pointsman.router.tenancy.limits import LINGER_S, Limits
from pointsman.router.tenancy.records import ApiKey
from pointsman.router.tenancy.tenants import TenantTable
from pointsman.router.tenancy.usage import Tokens

KEY = "k" * 12


class Desk:
    """The limits of one edge."""

    def __init__(self) -> None:
        self.book = Book()
        tenants = TenantTable(self.book)
        self.limits = Limits(tenants, KeyTable(self.book, tenants, lambda: 0.0), lambda: 0.0)
        self.asked = 0

    def tenant(self, name: str = "t", **limits: Any) -> None:
        self.book.write(f"tenant/{name}", {"name": name, "limits": limits})

    def key(self, **given: Any) -> None:
        key = ApiKey(id=KEY, tenant="t", hash="0" * 64, created_s=0.0, **given)
        self.book.write(f"key/{KEY}", msgspec.to_builtins(key))

    def ask(self, tokens: int = 10, now_s: float = 0.0, *, model: str = "m", tenant: str = "t", key: str = KEY) -> str:
        """The limit that a request is over; empty where it is let in."""
        self.asked += 1
        refused = self.limits.refuses(tenant, key, model, f"q{self.asked}", tokens, now_s)
        return "" if refused is None else refused.limit or str(refused.status)

    def left(self, scope: str) -> float:
        bucket = self.limits._allowances[scope].tokens
        assert bucket is not None
        return bucket.level

    def share_with(self, other: Desk, *, complete: bool = False) -> None:
        other.limits.hear("here", dict(self.limits.uses(complete=complete)), 0.0, complete=complete)


def test_who_has_no_limits_need_not_ask() -> None:
    """Until somebody has; and again when nobody has."""
    desk = Desk()
    assert not desk.limits.active
    desk.tenant()
    desk.key()
    assert not desk.limits.active
    desk.tenant(tokens_per_minute=1)
    assert desk.limits.active
    desk.tenant()
    desk.key(models=("m",))
    assert desk.limits.active
    desk.book.write(f"key/{KEY}", {})
    assert not desk.limits.active


def test_a_request_is_let_in_by_all_its_scopes_or_takes_nothing() -> None:
    """Of its tenant and of its key."""
    desk = Desk()
    desk.tenant(tokens_per_minute=600)
    desk.key(limits=module.Bounds(requests_per_minute=1))
    assert desk.ask(tokens=20) == ""
    assert desk.left("tenant/t") == 40
    assert desk.ask(tokens=20) == "requests_per_minute"
    assert desk.left("tenant/t") == 40
    assert desk.ask(tokens=20, key="other") == ""
    assert desk.limits.refused == {("t", "requests_per_minute"): 1}


def test_limits_of_a_model_are_beside_those_of_all() -> None:
    """Another model has the tenant's alone."""
    desk = Desk()
    desk.book.write("tenant/t", {"name": "t", "model_limits": {"m": {"concurrent_requests": 1}}})
    assert [desk.ask(), desk.ask(), desk.ask(model="other")] == ["", "concurrent_requests", ""]


def test_a_model_that_a_key_may_not_ask_for_is_forbidden() -> None:
    """Whatever its limits."""
    desk = Desk()
    desk.key(models=("a", "b"))
    assert [desk.ask(model="a"), desk.ask(model="c"), desk.ask(model="")] == ["", "403", "403"]
    assert desk.limits.refused["t", "model"] == 2


def test_a_request_that_asks_again_takes_nothing_more() -> None:
    """It was held, or HAProxy asked twice."""
    desk = Desk()
    desk.tenant(tokens_per_minute=600)
    for _ in range(3):
        assert desk.limits.refuses("t", "", "m", "same", 20, 0.0) is None
    assert desk.left("tenant/t") == 40


def test_what_engines_spent_stands_in_place_of_the_estimate() -> None:
    """Of all engines that worked on it, cached tokens by their weight."""
    desk = Desk()
    desk.tenant(tokens_per_minute=6000, cached_weight=0.1)
    desk.ask(tokens=300)
    desk.limits.ended("q1", 1.0, served=True)
    desk.limits.used("q1", 200, 100, 0)
    assert desk.left("tenant/t") == pytest.approx(600 - 110)
    desk.limits.used("q1", 0, 0, 40)
    assert desk.left("tenant/t") == pytest.approx(600 - 150)
    desk.limits.expire(1.0 + LINGER_S)
    desk.limits.used("q1", 1000, 0, 0)
    assert desk.left("tenant/t") == pytest.approx(600 - 150)
    assert desk.limits._charges == {}


def test_what_no_replica_had_costs_nothing() -> None:
    """Its place among those at one time is free at once."""
    desk = Desk()
    desk.tenant(tokens_per_minute=6000, concurrent_requests=1)
    assert [desk.ask(tokens=300), desk.ask()] == ["", "concurrent_requests"]
    desk.limits.ended("q1", 0.0, served=False)
    assert desk.left("tenant/t") == 600
    assert desk.ask() == ""


def test_an_end_that_is_told_twice_counts_once() -> None:
    """An old worker's line may come again."""
    desk = Desk()
    desk.tenant(concurrent_requests=2)
    desk.ask()
    desk.ask()
    for _ in range(2):
        desk.limits.ended("q1", 0.0, served=True)
    assert [desk.ask(), desk.ask()] == ["", "concurrent_requests"]


def test_edges_take_off_what_others_use() -> None:
    """Told once or twice, whole or changes alone; what a request gives back is told too."""
    one, other = Desk(), Desk()
    for desk in (one, other):
        desk.tenant(tokens_per_minute=6000)
        desk.ask(tokens=0)
    one.share_with(other, complete=True)
    one.ask(tokens=400)
    one.share_with(other)
    one.share_with(other)
    one.share_with(other, complete=True)
    assert other.left("tenant/t") == 200
    one.limits.used("q2", 100, 0, 0)
    one.share_with(other)
    assert other.left("tenant/t") == 500


def test_a_scope_that_is_first_used_after_an_edge_was_met_counts_from_its_first_request() -> None:
    """Of one that was used before nobody knows when: it counts from then on."""
    one, other = Desk(), Desk()
    one.tenant("early", tokens_per_minute=6000)
    one.ask(tokens=500, tenant="early", key="")
    one.share_with(other, complete=True)
    for name in ("early", "late"):
        for desk in (one, other):
            desk.tenant(name, tokens_per_minute=6000)
        other.ask(tokens=0, tenant=name, key="")
        one.ask(tokens=100, tenant=name, key="")
    one.share_with(other)
    assert (other.left("tenant/early"), other.left("tenant/late")) == (500, 500)


def test_an_edge_that_is_gone_has_nothing_under_way() -> None:
    """If it comes back it is met anew."""
    one, other = Desk(), Desk()
    for desk in (one, other):
        desk.tenant(concurrent_requests=1)
    one.share_with(other, complete=True)
    one.ask()
    one.share_with(other)
    assert other.ask() == "concurrent_requests"
    other.limits.lose("here")
    assert other.ask() == ""
    other.limits.hear("here", {"tenant/t": Use(9, 9, 9)}, 0.0, complete=False)
    other.limits.ended("q2", 0.0, served=False)
    assert other.ask() == "", "a stranger's changes say nothing before its heartbeat"


def test_charges_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest goes, and is not under way any more."""
    monkeypatch.setattr(module, "MAX_CHARGES", 2)
    desk = Desk()
    desk.tenant(concurrent_requests=2)
    assert [desk.ask(), desk.ask()] == ["", ""]
    desk.tenant(concurrent_requests=3)
    assert desk.ask() == ""
    assert len(desk.limits._charges) == 2
    assert desk.limits._allowances["tenant/t"].in_flight == 2


def test_ten_thousand_keys_are_read_without_going_through_all_of_them_each_time() -> None:
    """Each document costs what it is about."""
    desk, touched = Desk(), 0

    class Counting(dict[str, Any]):
        def items(self) -> Any:
            nonlocal touched
            touched += len(self)
            return super().items()

    desk.limits._allowances = Counting()
    for number in range(2000):
        key = ApiKey(id=f"{number:012d}", tenant="t", hash=f"{number:064x}", created_s=0.0)
        desk.book.write(f"key/{key.id}", msgspec.to_builtins(key))
    assert touched == 0


def test_a_budget_begins_with_what_was_used_of_its_period_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """A router that restarts asks once, for the day and for the month, of the tenant or of one key and model of it."""
    desk = Desk()
    asked: list[tuple[str, str, str, int]] = []

    def spent(tenant: str, key: str, model: str, since: int) -> Tokens:
        asked.append((tenant, key, model, since))
        return Tokens(prompt=90, cached=50, output=5)

    desk.limits._spent_since = spent
    desk.tenant(tokens_per_day=96, cached_weight=0.5)
    desk.key(model_limits={"m": module.Bounds(tokens_per_month=96)})
    assert [desk.ask(tokens=30, key=""), desk.ask(tokens=1, key="")] == ["", "tokens_per_day"]
    assert desk.ask(tokens=1) == "tokens_per_day"
    desk.tenant()
    assert [desk.ask(tokens=1), desk.ask(tokens=1)] == ["", "tokens_per_month"]
    assert asked == [("t", "", "", 0), ("t", KEY, "m", 0)]
