"""What the tables say of slices."""

from __future__ import annotations

import itertools

import pytest

from bench.edge import LUA, OURS, PAIRS, PEER, Slice, ratios, request_table, session_requests, token_table


def make_slice(side: str, us: float, *, decided: float = 1.0, router_us: float = 10.0) -> Slice:
    parts = {"all": us} if side == PEER else {"haproxy": us - router_us, "router": router_us, "supervisor": 0.0}
    return Slice(side, 1000, 500.0, parts, 1.0, 2.0, decided)


def make_rounds(ours: list[float], peer: list[float], decided: float = 1.0) -> list[Slice]:
    rounds = zip(ours, peer, strict=True)
    return [
        made
        for a, b in rounds
        for made in (make_slice(OURS, a, decided=decided), make_slice(LUA, 3 * a), make_slice(PEER, b))
    ]


def test_ratios_are_of_slices_of_one_round() -> None:
    """A round in which everything was slow counts like any other."""
    assert ratios(make_rounds([50, 200, 60], [100, 400, 100]), OURS) == [0.5, 0.5, 0.6]


@pytest.mark.parametrize(
    ("ours", "decided", "said"),
    [
        pytest.param([50, 60, 55], 1.0, "met", id="within"),
        pytest.param([90, 90, 90], 1.0, "short by 50 %", id="beyond"),
        pytest.param([50, 60, 55], 0.9, "void: too few decided", id="fast because it did not decide"),
    ],
)
def test_the_verdict_is_that_of_the_median_ratio(ours: list[float], decided: float, said: str) -> None:
    """Against 0.6 at 2 KB; lookups that ran out of time do not count as cheap ones."""
    slices = {kb: make_rounds(ours, [100, 100, 100], decided) for kb in ("2", "40", "200")}
    table = request_table(PAIRS[0], slices)
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert (row["body, side"], row["budget"], row["verdict"]) == ("2 KB, pointsman", "<= 0.6x", said)
    assert [r[0] for r in table.rows[:3]] == [f"2 KB, {side}" for side in (OURS, LUA, PEER)]


def test_tokens_have_a_ratio_and_the_routers_share() -> None:
    """What the router does while tokens flow is shown apart."""
    slices = [make_slice(OURS, 12.0, router_us=0.1), make_slice(PEER, 24.0)]
    rows = {row[0]: row for row in token_table(slices, make_rounds([88], [100]), []).rows}
    assert rows["per token, ratio"][1:] == ["0.50", "<= 0.7x", "met"]
    assert rows["per token, router process, us"][1:] == ["0.10", "0", "met"]
    assert rows["per request at 2 KB over Ray Serve LLM's 1100 us"][1:] == ["0.08", "<= 0.1x", "met"]


def test_sessions_share_the_bodies_evenly() -> None:
    """Each session keeps its body, so that a conversation stays itself."""
    bodies = [b"a", b"b", b"c"]
    once, again = itertools.tee(itertools.islice(session_requests(bodies), 512))
    seen = {request.head: request.body for request in once}
    assert len(seen) == 256 and {*seen.values()} == {*bodies}
    assert all(seen[request.head] == request.body for request in again)
