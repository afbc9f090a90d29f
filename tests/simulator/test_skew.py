"""Who sends a trace's sessions: shares as they are written, and clients by their rates."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from sim_trace import make_session, make_trace

from pointsman.simulator.errors import ExperimentError, TraceError
from pointsman.simulator.skew import (
    TenantShare,
    assign,
    by_clients,
    parse_shares,
    read_client_rates,
    zipf,
)
from pointsman.simulator.trace import Trace

HEAD = "client,window_start_s,rate_rps,cv,arrival,p1,p2\n"


def lone(number: int) -> Trace:
    return make_trace(*(make_session(f"s{at}", float(at)) for at in range(number)))


def write_rates(tmp_path: Path, *rows: str) -> Path:
    path = tmp_path / "rates.csv"
    path.write_text(HEAD + "".join(f"{row}\n" for row in rows))
    return path


def test_shares_are_named_or_fall_off() -> None:
    """With a class that requests name, where one is given."""
    assert parse_shares("acme=6, beta=3:high") == (TenantShare("acme", 6.0), TenantShare("beta", 3.0, "high"))
    assert parse_shares("zipf:3") == zipf(3)
    assert [share.share for share in parse_shares("zipf:3:1")] == pytest.approx([1, 1 / 2, 1 / 3])


@pytest.mark.parametrize(
    "text", ["", "acme", "acme=0", "acme=nan", "acme=1:urgent", "a b=1", "zipf:0", "zipf:x", "zipf:3:99", "a=1,a=2"]
)
def test_what_is_no_share_is_an_error(text: str) -> None:
    """It says how shares are written."""
    with pytest.raises(ExperimentError, match="--tenant-shares"):
        parse_shares(text)


def test_sessions_belong_to_tenants_by_their_shares() -> None:
    """The same seed gives the same owners, and nothing else changes."""
    trace, shares = lone(4_000), parse_shares("big=8,small=2:batch")
    owned = assign(trace, shares, 1)
    counts = Counter(session.tenant for session in owned.sessions)
    assert counts["big"] / 4_000 == pytest.approx(0.8, abs=0.02)
    assert {session.priority for session in owned.sessions if session.tenant == "small"} == {"batch"}
    assert owned == assign(trace, shares, 1) != assign(trace, shares, 2)
    assert [session.start_s for session in owned.sessions] == [session.start_s for session in trace.sessions]


def test_clients_send_by_their_rates(tmp_path: Path) -> None:
    """Ten requests a second of one client, one of another: a thousand take about 91 s."""
    path = write_rates(tmp_path, "5,0,10,1,Gamma,1,0.1", "x-7,0,1,1,Weibull,1,1", "9,600,1000,1,Gamma,1,0.001")
    owned = by_clients(lone(1_000), read_client_rates(path, 0.0), 1)
    counts = Counter(session.tenant for session in owned.sessions)
    assert counts["5"] == pytest.approx(909, abs=30)
    assert counts["5"] + counts["x-7"] == 1_000
    starts = [session.start_s for session in owned.sessions]
    assert starts == sorted(starts)
    assert starts[-1] == pytest.approx(91, rel=0.15)


def test_the_busiest_window_is_taken(tmp_path: Path) -> None:
    """Unless one is named; clients that send nothing then are left out."""
    path = write_rates(tmp_path, "1,0,5,1,Gamma,1,0.2", "1,600,6,1,Gamma,1,0.1", "2,600,0,1,Gamma,1,0.1")
    assert [(rate.client, rate.rate_rps) for rate in read_client_rates(path)] == [("1", 6.0)]
    assert [(rate.client, rate.rate_rps) for rate in read_client_rates(path, 0.0)] == [("1", 5.0)]


@pytest.mark.parametrize(
    ("rows", "start_s", "says"),
    [
        pytest.param([], None, "no client in it", id="empty"),
        pytest.param(["1,0,5,1,Normal,1,1"], None, "line 2: .*arrival", id="distribution"),
        pytest.param(["1,0,5,1,Gamma,1,0.2", "1,0,5,1,Gamma,0,1"], None, "line 3: .*p1", id="shape"),
        pytest.param(["1,0,5,1,Gamma,1,0.2"], 600.0, "no window begins at 600 s; the first do at 0", id="window"),
        pytest.param(["1,0,0,1,Gamma,1,0.2"], None, "no client sends anything", id="silent"),
    ],
)
def test_a_table_of_no_use_is_one_sentence(tmp_path: Path, rows: list[str], start_s: float | None, says: str) -> None:
    """With file and line."""
    with pytest.raises(TraceError, match=says):
        read_client_rates(write_rates(tmp_path, *rows), start_s)


def test_a_table_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    """With its path."""
    with pytest.raises(TraceError, match="cannot be read"):
        read_client_rates(tmp_path / "none.csv")
