"""Limits of tenants and keys: asked at each lookup, settled when a request has ended.

`Limits` owns one `Allowance` for each scope that has limits: a tenant, a key, and either of them for one model. What
always holds: each request that was let in is in `_charges` once, with what was taken for it in each of its scopes, from
its first lookup until it is settled; a request that asks again (because it was held, or because HAProxy asked twice)
takes nothing more.

Edges share limits without asking: each tells the others what it has used in all, and takes off its own buckets what
they used. While it cannot hear them, it goes by an equal part of each limit (`share`).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import msgspec

from pointsman.router.tenancy.account import NOTHING_LEFT, Account
from pointsman.router.tenancy.allowance import Allowance, Use
from pointsman.router.tenancy.keys import KeyTable
from pointsman.router.tenancy.records import ApiKey, Tenant
from pointsman.router.tenancy.records import Limits as Bounds
from pointsman.router.tenancy.tenants import TenantTable
from pointsman.router.tenancy.usage import HOUR_S, Tokens

MAX_CHARGES = 262_144
"""Requests that are let in and not settled; beyond, the oldest counts as it was estimated."""

MAX_ACCOUNTS = 65_536
"""Triples of tenant, key and model whose accounts are remembered; beyond, all are looked up anew."""

MAX_TENANTS = 64
"""Tenants whose refused requests are told apart; those of others are counted as `OTHER`."""

OTHER = "other"

LINGER_S = 5.0
"""Seconds from the end of a request within which its engines say what they spent on it."""


class Refused(NamedTuple):
    """Why a request is not let in."""

    status: int
    """403 for a model that the key may not ask for, 429 for a limit."""
    limit: str = ""
    scope: str = ""
    retry_after_s: int = 0


NO_TOKENS = Tokens()

NOBODY = Account(())


class Charge(msgspec.Struct, gc=False):
    """What was taken for one request."""

    account: Account
    tokens: float
    """Estimate of what it uses."""
    reported: bool = False
    """Whether an engine said what it used, which then stands in place of the estimate."""
    under_way: bool = True
    ended_s: float = 0.0


class Limits:
    """Who may use how much, and what is used of it."""

    def __init__(
        self,
        tenants: TenantTable,
        keys: KeyTable,
        wall: Callable[[], float],
        *,
        spent_since: Callable[..., Tokens] = lambda tenant, key, model, since: NO_TOKENS,
    ) -> None:
        """wall: seconds since 1970.
        spent_since: tokens of a tenant, of a key of it and of a model (empty: of all), `since` an hour since 1970.
        """
        self._spent_since = spent_since
        self._tenants = tenants
        self._keys = keys
        self._wall = wall
        self.active = False
        """Whether any tenant or key has limits, or models that it may ask for; else nobody need ask."""
        self.share = 1.0
        """Part of each limit that counts at this edge."""
        self.refused: Counter[tuple[str, str]] = Counter()
        """Requests refused, by tenant and limit."""
        self._counted: set[str] = set()
        self._asked = NOBODY
        """Account of the last request that asked."""
        self._allowances: dict[str, Allowance] = {}
        self._accounts: dict[tuple[str, str, str], Account] = {}
        self._charges: dict[str, Charge] = {}
        self._ended: deque[str] = deque()
        """Requests that ended, in that order."""
        self._heard: dict[str, dict[str, Use]] = {}
        """Use by scope of each edge that is heard, also of scopes without limits here."""
        self._told: dict[str, Use] = {}
        self._binding: set[str] = set()
        """Owners whose documents bound anything."""
        self._owned: dict[str, list[str]] = {}
        """Scopes in `_allowances` by their owner."""
        tenants.on_changed.append(self._tenant_changed)
        keys.on_changed.append(self._key_changed)

    def __repr__(self) -> str:
        return f"Limits({len(self._allowances)} scopes, {len(self._charges)} requests)"

    # A request

    def refuses(self, tenant: str, key: str, model: str, request_id: str, tokens: int, now_s: float) -> Refused | None:
        """Lets a request in and takes what it is expected to use, or says why not.

        tokens: that it is expected to use.
        """
        charges = self._charges
        charge = charges.get(request_id)
        if charge is not None:
            self._asked = charge.account
            return None
        account = self._accounts.get((tenant, key, model))
        if account is None:
            found = self._find(tenant, key, model, now_s)
            if isinstance(found, Refused):
                self._asked = NOBODY
                self._count(tenant, "model")
                return found
            account = found
        self._asked = account
        if not account.scopes:
            return None
        for scope in account.scopes:
            verdict = scope.refuses(now_s, self._wall, self.share)
            if verdict is not None:
                self._count(tenant, verdict.limit)
                return Refused(429, verdict.limit, scope.scope, verdict.retry_after_s)
        for scope in account.scopes:
            scope.take(tokens)
        if request_id:
            if len(charges) >= MAX_CHARGES:
                self._drop_oldest()
            charges[request_id] = Charge(account, tokens)
        return None

    def left(self) -> bytes:
        """What is left for the request that asked last, as `Account.left` says it."""
        return self._asked.left(self.share)

    def left_of(self, request_id: str) -> bytes:
        """What is left for a request that was let in, as `Account.left` says it."""
        charge = self._charges.get(request_id)
        return NOTHING_LEFT if charge is None else charge.account.left(self.share)

    def used(self, request_id: str, prompt: int, cached: int, output: int) -> None:
        """An engine said what it spent on a request. Of a request that several engines worked on, all of it counts.

        prompt: tokens of the prompt, `cached` of them found in the engine's cache.
        """
        charge = self._charges.get(request_id)
        if charge is None:
            return
        taken = 0.0 if charge.reported else charge.tokens
        charge.reported = True
        for scope in charge.account.scopes:
            scope.settle(prompt - cached + scope.cached_weight * cached + output - taken)

    def ended(self, request_id: str, now_s: float, *, served: bool) -> None:
        """HAProxy saw the end of a request.

        served: whether a replica had it; else it used nothing.
        """
        charge = self._charges.get(request_id)
        if charge is None or not charge.under_way:
            return
        charge.under_way = False
        charge.ended_s = now_s
        for scope in charge.account.scopes:
            scope.leave()
            if not served and not charge.reported:
                scope.settle(-charge.tokens)
        if not served:
            del self._charges[request_id]
        else:
            self._ended.append(request_id)

    def expire(self, now_s: float) -> None:
        """Forgets requests that ended `LINGER_S` ago. What no engine spoke of stays as it was estimated."""
        ended = self._ended
        while ended:
            charge = self._charges.get(ended[0])
            if charge is not None and not charge.under_way:
                if now_s - charge.ended_s < LINGER_S:
                    break
                del self._charges[ended[0]]
            ended.popleft()

    def _drop_oldest(self) -> None:
        charge = self._charges.pop(next(iter(self._charges)))
        if charge.under_way:
            for scope in charge.account.scopes:
                scope.leave()

    def _count(self, tenant: str, limit: str) -> None:
        if tenant not in self._counted:
            if len(self._counted) >= MAX_TENANTS:
                tenant = OTHER
            else:
                self._counted.add(tenant)
        self.refused[tenant, limit] += 1

    # Scopes

    def _find(self, tenant: str, key_id: str, model: str, now_s: float) -> Account | Refused:
        key = self._keys.get(key_id) if key_id else None
        if key is not None and key.models and model not in key.models:
            return Refused(403)
        scopes = tuple(
            self._allowance(scope, bounds, now_s)
            for scope, bounds in _bounds(self._tenants.get(tenant), key, model)
            if bounds.bounds_anything
        )
        if len(self._accounts) >= MAX_ACCOUNTS:
            self._accounts.clear()
        account = self._accounts[tenant, key_id, model] = Account(scopes)
        return account

    def _allowance(self, scope: str, bounds: Bounds, now_s: float) -> Allowance:
        found = self._allowances.get(scope)
        if found is None:
            found = self._allowances[scope] = Allowance(scope, bounds, now_s)
            self._owned.setdefault("/".join(scope.split("/", 2)[:2]), []).append(scope)
            for edge, uses in self._heard.items():
                found.hear(edge, uses.get(scope, Use()), from_zero=False)
            self._begin_budgets(found)
        return found

    def _begin_budgets(self, allowance: Allowance) -> None:
        """Takes off budgets what was used of their periods before this process began."""
        wall_s = self._wall()
        kind, name, model = (*allowance.scope.split("/", 2), "")[:3]
        key = self._keys.get(name) if kind == "key" else None
        tenant, key_id = (key.tenant, name) if key is not None else (name, "")
        for budget in allowance.budgets:
            budget.begin(wall_s)
            spent = self._spent_since(tenant, key_id, model, since=int(budget.begins_s) // HOUR_S)
            budget.used = spent.prompt - spent.cached + allowance.cached_weight * spent.cached + spent.output

    def _bounds_of(self, scope: str) -> Bounds | None:
        """The limits of a scope by its name; None where it has none here."""
        kind, name, *_ = scope.split("/", 2)
        tenant, key = self._tenants.get(name), self._keys.get(name)
        found: dict[str, Bounds] = {}
        if kind == "tenant" and tenant is not None:
            found = dict(_tenant_bounds(tenant))
        elif kind == "key" and key is not None:
            found = dict(_key_bounds(key))
        bounds = found.get(scope)
        return bounds if bounds is not None and bounds.bounds_anything else None

    def _changed(self, owner: str, bounds: Mapping[str, Bounds], *, restricts: bool) -> None:
        """The document of an owner of scopes changed: its limits are as they say, and what is used stays.

        bounds: its limits by scope. restricts: whether it is bound in another way.
        """
        self._accounts.clear()
        for scope in self._owned.pop(owner, ()):
            limits = bounds.get(scope)
            if limits is None or not limits.bounds_anything:
                del self._allowances[scope]
            else:
                self._allowances[scope].rebind(limits)
                self._owned.setdefault(owner, []).append(scope)
        if restricts or any(limits.bounds_anything for limits in bounds.values()):
            self._binding.add(owner)
        else:
            self._binding.discard(owner)
        self.active = bool(self._binding)

    def _tenant_changed(self, name: str) -> None:
        tenant = self._tenants.get(name)
        bounds = {} if tenant is None else dict(_tenant_bounds(tenant))
        self._changed(f"tenant/{name}", bounds, restricts=False)

    def _key_changed(self, key_id: str) -> None:
        key = self._keys.get(key_id)
        bounds = {} if key is None else dict(_key_bounds(key))
        self._changed(f"key/{key_id}", bounds, restricts=key is not None and bool(key.models))

    # Other edges

    def uses(self, *, complete: bool) -> Iterator[tuple[str, Use]]:
        """Use by this edge of each scope, since its process began; of those that changed alone unless `complete`."""
        for scope, allowance in self._allowances.items():
            own = allowance.own
            if complete or self._told.get(scope) != own:
                self._told[scope] = own
                yield scope, own

    def hear(self, edge: str, uses: Mapping[str, Use], now_s: float, *, complete: bool) -> None:
        """Takes over the use by another edge.

        complete: these are all its scopes, as far as it has used any.
        """
        known = self._heard.get(edge)
        if known is None:
            if not complete:
                return  # a heartbeat tells soon where it stands
            known = self._heard[edge] = {}
            met = True
        else:
            met = False
        for scope, use in uses.items():
            allowance = self._allowances.get(scope)
            if allowance is None and (bounds := self._bounds_of(scope)) is not None:
                allowance = self._allowance(scope, bounds, now_s)
            if allowance is not None:
                allowance.hear(edge, use, from_zero=not met)
            known[scope] = use

    def lose(self, edge: str) -> None:
        """Another edge is gone."""
        if self._heard.pop(edge, None) is not None:
            for allowance in self._allowances.values():
                allowance.lose(edge)


def _bounds(tenant: Tenant | None, key: ApiKey | None, model: str) -> Iterator[tuple[str, Bounds]]:
    """Scopes of a request with their limits."""
    if tenant is not None:
        yield f"tenant/{tenant.name}", tenant.limits
        if model in tenant.model_limits:
            yield f"tenant/{tenant.name}/{model}", tenant.model_limits[model]
    if key is not None:
        yield f"key/{key.id}", key.limits
        if model in key.model_limits:
            yield f"key/{key.id}/{model}", key.model_limits[model]


def _tenant_bounds(tenant: Tenant) -> Iterator[tuple[str, Bounds]]:
    yield f"tenant/{tenant.name}", tenant.limits
    for model, bounds in tenant.model_limits.items():
        yield f"tenant/{tenant.name}/{model}", bounds


def _key_bounds(key: ApiKey) -> Iterator[tuple[str, Bounds]]:
    yield f"key/{key.id}", key.limits
    for model, bounds in key.model_limits.items():
        yield f"key/{key.id}/{model}", bounds
