"""Fair shares among tenants while requests wait: virtual token counters with weights (arXiv 2401.00588).

A `FairShare` belongs to the replicas that some requests wait for. It counts, by priority class and tenant, the tokens
that were served, divided by the tenant's weight; among tenants whose requests wait, the one with the least goes next. A
request is charged when it is placed, by estimate, and corrected when its engine reports what it came to. A tenant none
of whose requests waits gathers no credit: when it comes back, its counter is lifted to the least of those that wait.

`FairShares` owns the shares and the charges that are still estimates. Nothing here keeps time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

from pointsman.contract.events import Finished
from pointsman.router.fleet.memberships import Membership
from pointsman.router.requests.batch_delays import BatchDelays

Key = TypeVar("Key")

Owner = tuple[int, str]
"""Priority class and tenant."""

MAX_SHARES = 256
"""Shares that are kept; beyond, the one that was made first is forgotten."""

WATCH_S = 600.0
"""Seconds after a request of a batch for which its delays are counted."""

MAX_OWNERS = 16_384
"""Counters of one share; beyond, the lower half is forgotten. Those tenants have used least, and lose no more than what
a tenant loses that comes back."""

MAX_CHARGES = 65_536
"""Charges that may still be corrected; beyond, the oldest stays as it was estimated."""

OUTPUT_MEMORY = 0.1
"""Weight of the newest output in the tenant's average."""


class FairShare:
    """Counters of one set of replicas."""

    __slots__ = ("_counters", "_foremost", "_output", "_outputs", "delays")

    def __init__(self) -> None:
        self.delays = BatchDelays()
        """The delays of others by batches."""
        self._counters: dict[Owner, float] = {}
        self._outputs: dict[Owner, float] = {}
        """Mean output of recent requests, in tokens."""
        self._output = 0.0
        """Mean output of recent requests of all owners: what is expected of one of which no request has ended."""
        self._foremost: dict[int, Owner] = {}
        """By priority class, the owner with the greatest counter of those that were placed. One that comes while none
        waits starts from its counter, so that neither use nor idleness without a queue counts."""

    def __repr__(self) -> str:
        return f"FairShare({len(self._counters)} counters)"

    def counter(self, owner: Owner) -> float:
        """Weighted tokens that an owner was served."""
        return self._counters.get(owner, 0.0)

    def came(self, owner: Owner, waiting: Iterable[Owner]) -> None:
        """Lifts the counter of an owner whose first request begins to wait.

        waiting: the others of its class that have requests waiting.
        """
        floor = min(map(self.counter, waiting), default=self.counter(self._foremost.get(owner[0], owner)))
        if floor > self.counter(owner):
            self._counters[owner] = floor

    def went(self, owner: Owner) -> None:
        """Notes that a request of an owner was placed."""
        if self.counter(owner) >= self.counter(self._foremost.get(owner[0], owner)):
            self._foremost[owner[0]] = owner

    def add(self, owner: Owner, amount: float) -> None:
        """Charges an owner, or gives back where the amount is negative."""
        counters = self._counters
        counters[owner] = counters.get(owner, 0.0) + amount
        if len(counters) > MAX_OWNERS:
            for least in sorted(counters, key=counters.__getitem__)[: MAX_OWNERS // 2]:
                del counters[least]
                self._outputs.pop(least, None)

    def expected_output(self, owner: Owner, max_tokens: int) -> float:
        """Tokens that a request of an owner is expected to generate.

        max_tokens: its own bound; 0: none.
        """
        # Too little is corrected later. Too much would lift those that come meanwhile, and stay with them.
        usual = self._outputs.get(owner, self._output)
        return min(usual, max_tokens) if max_tokens else usual

    def learn_output(self, owner: Owner, tokens: int) -> None:
        """Takes note of what a request of an owner generated."""
        usual = self._outputs.get(owner, self._output or float(tokens))
        self._outputs[owner] = usual + OUTPUT_MEMORY * (tokens - usual)
        usual = self._output or float(tokens)
        self._output = usual + OUTPUT_MEMORY * (tokens - usual)


class Charge(NamedTuple):
    """A charge of one request, by estimate."""

    share: FairShare
    owner: Owner
    tokens: float
    weight: float


class FairShares:
    """The shares of all sets of replicas, and the charges that an engine's report may correct."""

    def __init__(self, weight_of: Callable[[str], float] = lambda tenant: 1.0) -> None:
        """weight_of: weight of a tenant by its name."""
        self._weight_of = weight_of
        self._shares: dict[bytes, FairShare] = {}
        self._by_token: dict[int, FairShare] = {}
        """Shares by the token of a membership, which is found without reading its slots."""
        self._by_model: dict[str, FairShare] = {}
        """Share of each model's replicas by its name, which a change among them does not begin anew."""
        self.watched_until_s = 0.0
        """Until when the delays by batches are counted: there was a request of a batch."""
        self.charges: dict[str, Charge] = {}
        """By request id, oldest first; to be read only."""

    def __repr__(self) -> str:
        return f"FairShares({len(self._shares)} shares, {len(self.charges)} charges)"

    def of(self, model: str, members: Membership) -> FairShare:
        """The share of a model's replicas. Models with the very same replicas have one together."""
        share = self._by_token.get(members.token)
        if share is None:
            slots = members.slots.tobytes()
            share = self._shares.get(slots)
            if share is None:
                share = self._shares[slots] = self._by_model.get(model) or FairShare()
            self._by_token[members.token] = self._by_model[model] = share
            _forget_first(self._shares)
            _forget_first(self._by_token)
            _forget_first(self._by_model)
        return share

    def charge(self, request_id: str, share: FairShare, owner: Owner, prompt_tokens: int, max_tokens: int) -> None:
        """Charges a request that was placed.

        prompt_tokens: length of its prompt, as predicted. max_tokens: its own bound for the output; 0: none.
        """
        tokens, weight = prompt_tokens + share.expected_output(owner, max_tokens), self._weight_of(owner[1])
        share.add(owner, tokens / weight)
        share.went(owner)
        charges = self.charges
        before = charges.pop(request_id, None)
        if before is not None:  # placed again
            before.share.add(before.owner, -before.tokens / before.weight)
        charges[request_id] = Charge(share, owner, tokens, weight)
        if len(charges) > MAX_CHARGES:
            del charges[next(iter(charges))]

    def report(self, finished: Iterable[Finished]) -> None:
        """Corrects charges by what an engine reported at the end of requests."""
        for end in finished:
            charge = self.charges.pop(end.id, None)
            if charge is None:
                continue
            if end.prompt_tokens:
                tokens = end.prompt_tokens + end.completion_tokens
                charge.share.learn_output(charge.owner, end.completion_tokens)
            else:  # aborted: its prompt counts as estimated, since the engine does not say
                usual = charge.share.expected_output(charge.owner, 0)
                tokens = int(max(0.0, charge.tokens - usual)) + end.completion_tokens
            charge.share.add(charge.owner, (tokens - charge.tokens) / charge.weight)

    def give_back(self, request_id: str) -> None:
        """Takes back what a request was charged that was not served."""
        charge = self.charges.pop(request_id, None)
        if charge is not None:
            charge.share.add(charge.owner, -charge.tokens / charge.weight)


def _forget_first(table: dict[Key, FairShare]) -> None:
    if len(table) > MAX_SHARES:
        del table[next(iter(table))]
