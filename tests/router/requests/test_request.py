"""The record of one request: what it gives back, and when."""

from __future__ import annotations

from pointsman.policies.candidates import NO_SLOT
from pointsman.router.fleet.load import LoadTable
from pointsman.router.kv.state import KVState
from pointsman.router.requests.request import PrefillRequest, Request

LOAD, KV = LoadTable(), KVState()
for slot in (0, 1):
    LOAD.add_slot(slot)
    KV.add_slot(slot, f"r{slot}")


def reserved(*, announced: int = 0) -> Request:
    """A request of 100 tokens on slot 0 whose prompt of 50 waits at a prefill request on slot 1."""
    LOAD.add(0, 100)
    LOAD.add(1, 50)
    waiting = KV.backlog.add(1, 50, 0.0, reports=False)
    return Request("a", 0.0, 0, 100, announced, prefill=PrefillRequest(1, 50, waiting=waiting))


def tokens() -> tuple[int, int, int]:
    """Tokens in flight on both slots, and prompts that wait."""
    return int(LOAD.in_flight_tokens[0]), int(LOAD.in_flight_tokens[1]), len(KV.backlog)


def test_a_reservation_is_released_once() -> None:
    """That of the prefill request goes with it; the prompt may still be computed."""
    request = reserved(announced=7)
    assert (request.release(LOAD), request.release(LOAD)) == (1, 0)
    assert (tokens(), request.slot, request.announced) == ((0, 0, 1), NO_SLOT, 0)
    request.prompt_computed(LOAD, KV.backlog)
    assert tokens() == (0, 0, 0)


def test_announced_tokens_count_once_the_prompt_is_computed() -> None:
    """The prefill request is over by then; the request's own reservation is not."""
    request = reserved(announced=7)
    assert not request.prompt_computed(LOAD, KV.backlog, 1.0), "it did not wait at the request's own replica"
    assert tokens() == (107, 0, 0)
    request.release(LOAD)
    assert tokens() == (0, 0, 0)


def test_a_prompt_at_the_requests_own_replica_is_computed_once() -> None:
    """Who sees it first tells so; the second sees that it no longer waited."""
    request = Request("a", 0.0, NO_SLOT, 0, waiting=KV.backlog.add(0, 10, 0.0, reports=False))
    assert request.prompt_computed(LOAD, KV.backlog, 1.0)
    assert not request.prompt_computed(LOAD, KV.backlog, 1.0)
    assert not request.awaits_report


def test_a_reservation_moves_while_it_lasts() -> None:
    """With its tokens, as often as it has to."""
    request = Request("a", 0.0, 0, 100)
    LOAD.add(0, 100)
    for _ in range(2):
        request.move(LOAD, 1)
        assert (tokens(), request.slot) == ((0, 100, 0), 1)
    request.release(LOAD)
    request.move(LOAD, 0)
    assert (tokens(), request.slot) == ((0, 0, 0), NO_SLOT)
