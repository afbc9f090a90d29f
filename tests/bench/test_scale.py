"""The bench of size: what it judges, and what it leaves out."""

from __future__ import annotations

import asyncio

import pytest

from bench.edge import OURS, PEER
from bench.scale import allowed_mb, idle_table, load_table, stream_table
from bench.scale_fleet import ENGINES, Fleet, FleetFigures, Prober
from bench.scale_streams import StreamFigures, within_limits


def fleet(count: int, **changes: float) -> FleetFigures:
    values = {
        "router_idle": 0.002, "haproxy_idle": 0.002, "router_wakeups_per_s": 10.0, "haproxy_wakeups_per_s": 10.0,
        "requests": 100, "failed": 0, "fail_open": 0, "p50_ms": 1.0, "p99_ms": 2.0, "max_ms": 3.0, "hold_idle_ms": 1.0,
        "hold_metrics_ms": 1.0, "metrics_ms": 1.0, "metrics_bytes": 1000, "router_mb": 70.0, "haproxy_mb": 20.0,
    }  # fmt: skip
    return FleetFigures(fleet=Fleet(count).name, count=count, **(values | changes))  # type: ignore[arg-type]


def streams(side: str, mb: float, count: int = 1000) -> StreamFigures:
    part = "haproxy" if side == OURS else "all"
    return StreamFigures(
        side=side, body_kb=2, streams=count, memory_mb={part: mb, "router": 70.0}, idle_mb={part: 20.0},
        new_p50_ms=1.0, new_p99_ms=2.0, failed=0,
    )  # fmt: skip


def test_the_budget_of_streams_grows_with_their_number() -> None:
    """256 MB and 20 KB a stream: what HAProxy keeps to send requests again, and the streams themselves."""
    assert allowed_mb(0) == 256
    assert allowed_mb(10_240) == 456


def test_memory_a_stream_is_what_streams_added() -> None:
    """Of HAProxy alone, or of the peer's one process."""
    assert streams(OURS, 120.0).kb_a_stream == pytest.approx(102.4)
    assert streams(PEER, 120.0).kb_a_stream == pytest.approx(102.4)


def test_only_our_side_is_judged() -> None:
    """Beyond its budget it says by how much."""
    table = stream_table(
        [streams(OURS, 260.0), streams(OURS, 300.0), streams(PEER, 900.0)],
        left_out=(9800,),
        failures=["100 KB: vllm-router: gone"],
    )
    assert [row[-1] for row in table.rows] == ["met", "short by 24 MB", ""]
    assert any("9,800" in note for note in table.notes)
    assert any("vllm-router: gone" in note for note in table.notes)


def test_streams_the_descriptors_do_not_allow_are_left_out() -> None:
    """A stream takes two of them in a proxy."""
    assert within_limits((1000, 5000, 9800), 65_536) == (1000, 5000, 9800)
    assert within_limits((1000, 5000, 9800), 20_000) == (1000, 5000)  # 20,000 / 2 - 2 x 625 - 32 = 8,718
    assert within_limits((1000,), 1024) == ()


def test_a_small_fleet_is_judged_by_its_fixed_cost_and_a_large_one_by_its_router() -> None:
    """5 ms a second of HAProxy and router together; 8 % of a core of the router."""
    table = idle_table([fleet(4), fleet(4, router_idle=0.008), fleet(1000, router_idle=0.07, haproxy_idle=0.5)])
    assert [row[-1] for row in table.rows] == ["met", "short by 100 %", "met"]
    assert idle_table([fleet(1000, router_idle=0.16)]).rows[0][-1] == "short by 100 %"


def test_requests_are_judged_by_p99_and_by_none_failing_open() -> None:
    """Each by a column of its own."""
    table = load_table([fleet(1000, p99_ms=9.0), fleet(1000, p99_ms=20.0, fail_open=3)])
    assert [row[-2:] for row in table.rows] == [["met", "met"], ["short by 100 %", "short by 3 requests"]]


def test_a_fleet_says_its_size_and_kind() -> None:
    """As tables show it."""
    assert Fleet(1000, ENGINES).name == "1,000 engines"


async def test_a_prober_sees_for_how_long_a_server_was_busy() -> None:
    """The worst wait of any question that was under way in a span of time."""
    holds = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number in range(3):
            await reader.readuntil(b"\r\n\r\n")
            if number == 1:
                await holds.wait()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    prober = Prober(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    task = asyncio.create_task(prober.run())
    async with asyncio.timeout(10):
        while len(prober.waits) < 1:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        holds.set()
        while len(prober.waits) < 3:
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    server.close()
    (_, first), (asked, held), _ = prober.waits
    assert held > first
    assert prober.worst_s(asked, asked + held) == held
    assert prober.worst_s(asked + held / 2, asked + held) == held
