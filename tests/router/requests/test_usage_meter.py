"""Each request is counted once, with what engines spent on it, however it ended and in whatever order that is said."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from reporting_fleet import ReportingFleet
from ring_line import line

from pointsman.contract.events import Finished, FirstToken, RequestUsage
from pointsman.contract.registration import Registration, Role, leg_id
from pointsman.policies.request import RequestFeatures
from pointsman.router.requests import usage_meter
from pointsman.router.requests.answer_bytes import HEAD_BYTES, STREAMED_BYTES
from pointsman.router.requests.usage_meter import LONG_WAIT_S, WAIT_S
from pointsman.router.tenancy.usage import Values

CHAT = "/v1/chat/completions"
SPENT = RequestUsage("q", 1000, 600, 50, 2000.0)


class Fleet(ReportingFleet):
    """Replicas that report, requests of tenants, and what the ledger has of them."""

    def __init__(self, *, named: bool = False) -> None:
        """named: whether the test registers replicas of its own, in place of those that serve whatever model."""
        super().__init__()
        if named:
            for name in ("r0", "r1", "r2"):
                self.core.replicas.remove(name)
        self.now_s = 0.0
        self.numbers = [0] * 10

    def decide(self, request_id: str = "q", **about: object) -> int:
        """A decision of the live policy; the slot."""
        asked = {"model": "m", "tenant": "acme", "key": "k1", "path": CHAT, "body_bytes": 4000, "max_tokens": 100}
        decision = self.core.decide(RequestFeatures(request_id=request_id, **(asked | about)), self.now_s)  # type: ignore[arg-type]
        return self.core.replicas.slot_of(decision.first)

    def spent(self, slot: int, *usage: RequestUsage, **events: object) -> None:
        """A report of an engine."""
        self.tell(slot, usage=list(usage), usage_from=self.numbers[slot], now_s=self.now_s, **events)
        self.numbers[slot] += len(usage)

    def end(self, slot: int, request_id: str = "q", **fields: object) -> None:
        """HAProxy's line."""
        name = self.core.replicas.ids[slot]
        given = {"id": request_id, "srv": name, "first": name} | fields
        self.core.end_of_request.apply(line(**given), self.now_s)

    def wait(self, seconds: float = 2 * WAIT_S) -> None:
        """Time passes, and sweeps."""
        self.now_s += seconds / 2
        self.core.sweep(self.now_s)
        self.now_s += seconds / 2
        self.core.sweep(self.now_s)

    @property
    def rows(self) -> dict[tuple[str, ...], tuple[int, ...]]:
        """By names: requests, prompt, cached and output tokens, and the same as far as they are estimates."""
        return {tuple(row.key.names): whole(row.values) for row in self.core.usage.ledger}

    @property
    def row(self) -> tuple[int, ...]:
        (row,) = self.rows.values()
        return row


def whole(values: Values) -> tuple[int, ...]:
    return tuple(int(value) for value in (*values[:4], *values[5:]))


ONCE = (1, 1000, 600, 50, 0, 0, 0, 0)


@pytest.mark.parametrize("order", [("spent", "end"), ("end", "spent")])
def test_a_request_counts_once(order: Sequence[str]) -> None:
    """With tenant, key, model and the engine's own time, whether the line or the report comes first."""
    fleet = Fleet()
    slot = fleet.decide()
    for what in order:
        if what == "spent":
            fleet.spent(slot, SPENT, first=[FirstToken("q", 1000, 600, 80.0)])
        else:
            fleet.end(slot)
    fleet.wait()
    assert fleet.rows == {("acme", "k1", "m", ""): ONCE}
    (row,) = fleet.core.usage.ledger
    assert row.seconds == 2.0
    assert len(fleet.core.usage) == 0


def test_a_report_sent_twice_counts_once() -> None:
    """Engines send again what was not kept, some of which was counted."""
    fleet = Fleet()
    slot = fleet.decide()
    other = fleet.decide("p")
    fleet.tell(slot, usage=[SPENT], usage_from=0)
    fleet.tell(slot, usage=[SPENT], usage_from=0, snapshot=True)
    fleet.tell(slot, usage=[SPENT, RequestUsage("p", 10, 0, 5)], usage_from=0, snapshot=True)
    fleet.end(slot)
    fleet.end(other, "p")
    assert fleet.row == (2, 1010, 600, 55, 0, 0, 0, 0)
    assert fleet.core.usage.cursors[fleet.core.replicas.ids[slot], "e"] == 2


def test_after_a_gap_an_engine_sends_again() -> None:
    """What it says is not counted before; what it dropped meanwhile is lost, and counted as such."""
    fleet = Fleet()
    slot = fleet.decide()
    assert fleet.tell(slot, usage=[SPENT], usage_from=3)
    assert fleet.core.usage.ledger.row("acme", "k1", "m", "").prompt_tokens == 0
    fleet.tell(slot, usage=[RequestUsage("of another edge", 1)], usage_from=2, snapshot=True)
    assert not fleet.tell(slot, usage=[SPENT], usage_from=3)
    assert fleet.core.usage.lost_reports == 0  # nobody knows what an incarnation said before this router began
    fleet.tell(slot, usage=[RequestUsage("p", 7)], usage_from=6, snapshot=True)
    assert fleet.core.usage.lost_reports == 2
    fleet.end(slot)
    assert fleet.row == ONCE


def test_an_answer_says_what_need_not_be_sent_again() -> None:
    """What is counted where nothing keeps it, else what is kept."""
    fleet = Fleet()
    usage, source = fleet.core.usage, ("r0", "e")
    fleet.tell(0, usage=[SPENT], usage_from=0)
    assert usage.kept_of(*source) == 1
    usage.kept = {}
    assert usage.kept_of(*source) == 0
    usage.kept[source] = 1
    assert usage.kept_of(*source) == 1
    assert usage.kept_of("r0", "another epoch") == 0


def test_an_aborted_request_counts_with_what_it_came_to() -> None:
    """Nothing at all if it was still waiting."""
    fleet = Fleet()
    slot = fleet.decide()
    fleet.end(slot, st=200, ts="CD")
    fleet.spent(slot, RequestUsage("q", 1000, 600, 7, 300.0))
    waiting = fleet.decide("w")
    fleet.end(waiting, "w", st=-1, ts="CH", tr=-1)
    fleet.spent(waiting, RequestUsage("w"))
    fleet.wait()
    assert fleet.row == (2, 1000, 600, 7, 0, 0, 0, 0)


def test_a_request_that_two_engines_worked_on_counts_once_with_both() -> None:
    """HAProxy sent it again; the second report may come long after the line."""
    fleet = Fleet()
    first = fleet.decide()
    second = (first + 1) % 3
    fleet.spent(first, RequestUsage("q", 1000, 0, 3))
    fleet.end(second, first=fleet.core.replicas.ids[first], rc="+1")
    fleet.now_s += 6.0
    fleet.core.sweep(fleet.now_s)
    fleet.spent(second, RequestUsage("q", 1000, 0, 50))
    fleet.wait()
    assert fleet.row == (1, 2000, 0, 53, 0, 0, 0, 0)


def test_a_retried_request_whose_second_engine_died_is_an_estimate_beside_the_first() -> None:
    """The first one's report does not stand for the second's."""
    fleet = Fleet()
    first = fleet.decide()
    second = (first + 1) % 3
    fleet.spent(first, RequestUsage("q", 1000, 0, 3))
    fleet.tell(second, first=[FirstToken("q", 1000, 400, 80.0)])
    size = HEAD_BYTES + int(20 * STREAMED_BYTES)
    fleet.end(second, first=fleet.core.replicas.ids[first], rc="+1", ts="SD", bytes=size, sse="1")
    fleet.wait()
    assert fleet.row == (1, 2000, 400, 23, 1, 1000, 400, 20)


def test_a_prompt_counts_where_it_was_computed() -> None:
    """A prefill replica reports it, the decode replica the output; either may come last."""
    for order in (("leg", "decode"), ("decode", "leg")):
        fleet = Fleet(named=True)
        for name, role in (("d", Role.DECODE), ("p", Role.PREFILL)):
            at = Registration(url="http://10.0.0.1:1", model="pd", role=role)
            fleet.core.replicas.put(name, at, ("10.0.0.1", 1), 0.0)
            fleet.seqs.append(0)
        decode, prefill = fleet.core.replicas.slot_of("d"), fleet.core.replicas.slot_of("p")
        for slot in (decode, prefill):
            fleet.tell(slot, snapshot=True, capacity_tokens=100_000)
        assert fleet.decide(model="pd", body_bytes=400_000) == decode
        fleet.end(decode)
        for what in order:
            if what == "leg":
                fleet.spent(prefill, RequestUsage(leg_id("q"), 100_000, 20_000))
            else:
                fleet.spent(decode, RequestUsage("q", 0, 0, 50, 900.0))
        fleet.wait()
        assert fleet.rows == {("acme", "k1", "pd", ""): (1, 100_000, 20_000, 50, 0, 0, 0, 0)}


def test_an_engine_that_died_is_counted_by_what_is_known() -> None:
    """Its first token says the prompt, the bytes of the answer say its length; nothing is counted before the time."""
    fleet = Fleet()
    slot = fleet.decide()
    fleet.tell(slot, first=[FirstToken("q", 1000, 600, 80.0)])
    fleet.core.replicas.remove(fleet.core.replicas.ids[slot])
    fleet.core.end_of_request.apply(
        line(id="q", srv="r9", first="r9", ts="SD", ta=1500, bytes=HEAD_BYTES + int(12 * STREAMED_BYTES), sse="1"), 0.0
    )
    assert fleet.row == (1, 0, 0, 0, 0, 0, 0, 0)
    fleet.wait()
    assert fleet.row == (1, 1000, 600, 12, 1, 1000, 600, 12)
    (row,) = fleet.core.usage.ledger
    assert row.seconds == 1.5


def test_a_failed_request_without_a_token_is_no_estimate() -> None:
    """It counts as a request."""
    fleet = Fleet()
    slot = fleet.decide()
    fleet.end(slot, st=502, ts="SH", bytes=200)
    fleet.wait()
    assert fleet.row == (1, 0, 0, 0, 0, 0, 0, 0)


def test_a_request_that_nobody_served_counts_nothing() -> None:
    """HAProxy found no server for it."""
    fleet = Fleet()
    fleet.decide()
    fleet.core.end_of_request.apply(line(id="q", srv="<NOSRV>", st=503, ts="SC", rc="+3"), 0.0)
    fleet.wait()
    assert all(row == (0,) * 8 for row in fleet.rows.values())


def test_a_plain_endpoint_is_estimated_at_once() -> None:
    """By the bytes of prompt and answer, at most what the client allowed."""
    fleet = Fleet(named=True)
    fleet.core.policy.put({"policy": "least_load"})
    fleet.core.replicas.put("plain", Registration(url="http://10.0.0.1:1", model="own"), ("10.0.0.1", 1), 0.0)
    slot = fleet.decide(model="own", max_tokens=30)
    fleet.end(slot, bytes=HEAD_BYTES + int(40 * STREAMED_BYTES), sse="1")
    assert fleet.rows == {("acme", "k1", "own", ""): (1, 1000, 0, 30, 1, 1000, 0, 30)}
    other = fleet.decide("e", model="own", generates=False)
    fleet.end(other, "e", bytes=9000)
    assert fleet.row == (2, 2000, 0, 30, 2, 2000, 0, 30)


def test_an_engine_that_reports_ends_and_no_usage_is_taken_at_its_word() -> None:
    """It counts as an estimate, since nothing says what was lost on the way."""
    fleet = Fleet()
    slot = fleet.decide()
    fleet.tell(slot, first=[FirstToken("q", 1000, 600, 80.0)], finished=[Finished("q", 1000, 50)])
    fleet.end(slot, bytes=10**6, sse="1")
    fleet.wait()
    assert fleet.row == (1, 1000, 600, 50, 1, 1000, 600, 50)


def test_an_adapter_counts_beside_its_model() -> None:
    """As one of the replica that served."""
    fleet = Fleet(named=True)
    at = Registration(url="http://10.0.0.1:1", model="base", adapters=["sql"])
    fleet.core.replicas.put("lora", at, ("10.0.0.1", 1), 0.0)
    fleet.seqs.append(0)
    slot = fleet.core.replicas.slot_of("lora")
    fleet.tell(slot, snapshot=True, capacity_tokens=100_000)
    assert fleet.decide(model="sql") == slot
    fleet.spent(slot, RequestUsage("q", 1000, 600, 50, adapter="sql"))
    fleet.end(slot)
    assert fleet.rows == {("acme", "k1", "base", "sql"): ONCE}


@pytest.mark.parametrize("order", [("spent", "end"), ("end", "spent")])
def test_a_request_that_this_router_never_placed_is_counted_by_its_line(order: Sequence[str]) -> None:
    """It was away, or has restarted since; HAProxy knows tenant and key."""
    fleet = Fleet()
    for what in order:
        if what == "spent":
            fleet.spent(0, RequestUsage("q", 1000, 600, 50, adapter="sql"))
        else:
            fleet.end(0, tenant="acme", key="k1")
    fleet.wait()
    assert fleet.rows == {("acme", "k1", "", "sql"): ONCE}


def test_requests_of_other_edges_are_passed_over() -> None:
    """Their engines report here too."""
    fleet = Fleet()
    fleet.spent(0, RequestUsage("of another edge", 1000))
    assert len(fleet.core.usage) == 1
    fleet.wait()
    assert fleet.rows == {} and len(fleet.core.usage) == 0


def test_a_request_whose_line_never_comes_is_counted_after_a_while() -> None:
    """HAProxy has no such session any more: the line was lost."""
    fleet = Fleet()
    slot = fleet.decide()
    fleet.spent(slot, SPENT)
    for _ in range(4):
        fleet.now_s += 1.0
        fleet.core.requests.observe(slot, 0, fleet.now_s)
    fleet.core.requests.clear_slot(slot)
    fleet.wait(60.0)
    fleet.core.requests.expire(fleet.now_s + 4000.0)
    fleet.wait()
    fleet.wait(2 * LONG_WAIT_S)
    assert fleet.row == ONCE


def test_a_stream_that_outlives_its_record_is_counted_at_its_end() -> None:
    """Once, with the tenant that its decision knew."""
    fleet = Fleet()
    slot = fleet.decide()
    fleet.now_s = 4000.0
    fleet.core.sweep(fleet.now_s)
    assert fleet.core.requests.get("q") is None
    fleet.wait(1000.0)
    fleet.spent(slot, SPENT)
    fleet.end(slot, ta=5_000_000)
    fleet.wait()
    assert fleet.rows == {("acme", "k1", "m", ""): ONCE}


def test_a_line_that_is_repeated_counts_once() -> None:
    """While the record is there, and after."""
    fleet = Fleet()
    slot = fleet.decide()
    fleet.end(slot)
    fleet.end(slot)
    fleet.spent(slot, SPENT)
    fleet.wait()
    assert fleet.row == ONCE


def test_a_request_placed_again_keeps_what_was_counted() -> None:
    """HAProxy asked twice; tenant and tokens are those of one request."""
    fleet = Fleet()
    slot = fleet.decide()
    fleet.spent(slot, RequestUsage("q", 1000, 0, 3))
    again = fleet.decide()
    fleet.spent(again, RequestUsage("q", 1000, 600, 50))
    fleet.end(again)
    fleet.wait()
    assert fleet.row == (1, 2000, 600, 53, 0, 0, 0, 0)


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest is counted as it is; positions of engines have a bound too."""
    monkeypatch.setattr(usage_meter, "MAX_OPEN", 2)
    monkeypatch.setattr(usage_meter, "MAX_SOURCES", 2)
    fleet = Fleet()
    for number in range(4):
        fleet.end(0, f"q{number}", tenant="acme", st=500)
    assert fleet.row[0] == 2 and len(fleet.core.usage) == 2
    fleet.core.usage.settle()
    assert fleet.row[0] == 4 and len(fleet.core.usage) == 0
    for number in range(3):
        fleet.tell(0, epoch=f"e{number}", snapshot=True, usage=[RequestUsage("x")])
    assert [epoch for _, epoch in fleet.core.usage.cursors] == ["e1", "e2"]


def test_the_model_meter_counts_the_same() -> None:
    """Tokens of answers that ended in order, by model and tenant: two owners of counts agree."""
    fleet = Fleet()
    for number in range(20):
        name, tenant = f"q{number}", ("acme", "zeta")[number % 2]
        slot = fleet.decide(name, tenant=tenant)
        first = FirstToken(name, 100 + number, number, 80.0)
        from_engine = RequestUsage(name, 100 + number, number, 5 * number)
        fleet.spent(slot, from_engine, first=[first], finished=[Finished(name, 100 + number, 5 * number)])
        fleet.end(slot, name)
    rows = {key.tenant: row for key, row in fleet.core.meter.counts}
    for (tenant, *_), counted in fleet.rows.items():
        row = rows[tenant]
        ended = sum(took.count for took in row.durations_s.values())
        assert counted[:4] == (ended, row.prompt_tokens, row.cached_tokens, row.output_tokens)
