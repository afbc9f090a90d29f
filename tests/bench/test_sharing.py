"""What sharing state costs: the bench runs, its figures are of what they say, and its tables show them."""

from __future__ import annotations

import pytest

from bench.shared_cost import cost
from bench.sharing import LATER_S, VARIANTS, newcomer, replay, soak, tables


def test_several_edges_are_played_beside_one() -> None:
    """Each seed's change is from one edge's run of the same trace, and nothing is told where nobody else is."""
    rows = replay(sessions=3, seeds=1, load=0.5)
    assert [(row["edges"], row["heard_later_ms"]) for row in rows] == [(n, 1000 * later_s) for n, later_s in VARIANTS]
    assert VARIANTS[1] == (1, LATER_S)
    assert rows[0]["hit_rate_change"] == rows[0]["imbalance_change"] == [0.0]
    assert [bool(row["told_bytes"]) for row in rows] == [False, False, True, True]
    (table,) = tables({"replay": rows})
    assert [row[0] for row in table.rows] == ["1", "1, engines heard 10 ms later", "2", "4"]


@pytest.mark.soak
async def test_telling_and_following_are_measured_apart() -> None:
    """Three processes and a Valkey: requests are decided, told and followed."""
    found = await cost(rate=50.0, seconds=0.4, rounds=1, quiet_s=0.2)
    assert found["commands_per_request"] > 0 and found["bytes_out_per_request"] > 0
    assert found["calls"]["xadd"] > 0 and found["calls"]["xread"] > 0 and "info" not in found["calls"]
    assert "50/s" in tables({"cost": [found]})[0].markdown()


async def test_a_newcomer_and_a_soak_are_run() -> None:
    """With few keys and for a moment."""
    found = {"newcomer": await newcomer(4000), "soak": await soak(rate=200.0, seconds=0.4)}
    assert found["newcomer"]["states"] == 4000
    marks = [mark["requests"] for mark in found["soak"]["marks"]]
    assert marks == sorted(marks) and marks[-1] > 0
    assert len(tables(found)) == 2
