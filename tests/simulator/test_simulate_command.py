"""`pointsman simulate` as people type it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pointsman.cli import main

SMALL = ("--generate", "short_sessions", "--sessions", "20", "--replicas", "2", "--kv-tokens", "100000")


def simulate(*arguments: str) -> int:
    """The exit code."""
    with pytest.raises(SystemExit) as ended:
        main(["simulate", *arguments])
    return int(ended.value.code or 0)


def test_json_says_what_each_policy_did(capsys: pytest.CaptureFixture[str]) -> None:
    """A generated workload under two policies and two seeds."""
    code = simulate(
        *SMALL, "--policies", "kv_cost,dynamo_tuned", "--load", "0.5", "--seed", "1", "--seed", "2", "--json"
    )
    assert code == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document["policies"]) == {"kv_cost", "dynamo_tuned"}
    assert document["policies"]["kv_cost"]["requests"] == 120
    assert document["policies"]["kv_cost"]["ttft_ms"]["p99"] > 0
    assert document["documents"]["dynamo_tuned"]["prefill_load_scale"] == 16.0
    assert document["seeds"] == [1, 2]


def test_a_table_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    """With the load it stands for."""
    assert simulate(*SMALL, "--policies", "least_load,hash_ring", "--load", "0.5") == 0
    printed = capsys.readouterr().out
    assert "0.5 of the knee" in printed
    assert "hash_ring" in printed


def test_a_written_trace_is_the_one_that_is_played(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Written at a load, read as recorded: the same result, but for times cut to a microsecond."""
    path = tmp_path / "trace.jsonl"
    assert simulate(*SMALL, "--load", "0.5", "--private-output", "--write", str(path)) == 0
    assert "60 requests in 20 sessions" in capsys.readouterr().out
    fleet = ("--replicas", "2", "--kv-tokens", "100000", "--policies", "session_affinity", "--private-output", "--json")
    assert simulate(str(path), *fleet) == 0
    from_file = json.loads(capsys.readouterr().out)["policies"]["session_affinity"]
    assert simulate(*SMALL[:4], "--load", "0.5", *fleet) == 0
    generated = json.loads(capsys.readouterr().out)["policies"]["session_affinity"]
    assert from_file["ttft_ms"]["mean"] == pytest.approx(generated["ttft_ms"]["mean"], rel=1e-3)
    assert from_file["hit_rate"] == pytest.approx(generated["hit_rate"], rel=1e-3)


def test_a_policy_file_goes_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Several sets of constants of one policy can be compared."""
    path = tmp_path / "bold.yaml"
    path.write_text("policy: kv_cost\nkappa_full: 4\n")
    assert simulate(*SMALL, "--policies", f"kv_cost,{path}", "--load", "0.5", "--json") == 0
    assert set(json.loads(capsys.readouterr().out)["policies"]) == {"kv_cost", "bold"}


def test_a_fleet_with_several_routers_and_a_death(capsys: pytest.CaptureFixture[str]) -> None:
    """Everything a fleet may have, on one command line."""
    code = simulate(
        *SMALL, "--policies", "kv_cost", "--load", "0.5", "--routers", "3", "--sync-ms", "-1", "--event-lag-ms", "100",
        "--speeds", "1,0.5", "--restart", "1@0.2+1.5", "--bytes-per-token", "3.6", "--json",
    )  # fmt: skip
    assert code == 0
    document = json.loads(capsys.readouterr().out)
    assert document["fleet"]["restarts"] == [{"replica": 1, "at_s": 0.2, "down_s": 1.5, "noticed_s": 1.0}]
    assert document["fleet"]["sync_s"] is None
    assert document["policies"]["kv_cost"]["requests"] == 60


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param((), "--generate: missing, expected a trace file or one of", id="nothing"),
        pytest.param(("--generate", "nope"), "--generate: got 'nope', expected one of agentic", id="workload"),
        pytest.param(("missing.jsonl",), "missing.jsonl: cannot be read", id="file"),
        pytest.param((*SMALL, "--policies", "nope"), "policies: got 'nope', expected one of", id="policy"),
        pytest.param((*SMALL, "--policies", "none.yaml"), "none.yaml: cannot be read", id="policy file"),
        pytest.param((*SMALL, "--policies", ","), "at least one name", id="no policy"),
        pytest.param((*SMALL, "--load", "1", "--rate", "1"), "one of them", id="two paces"),
        pytest.param((*SMALL, "--speeds", "fast"), "--speeds: got 'fast'", id="speeds"),
        pytest.param((*SMALL, "--restart", "1"), "--restart: got '1'", id="restart"),
        pytest.param((*SMALL, "--dialect", "spoken"), "--dialect: got 'spoken'", id="dialect"),
        pytest.param((*SMALL, "--timing", "slow"), "timing: got 'slow'", id="timing"),
        pytest.param((*SMALL, "--sweep", "--write", "x"), "--write: several loads or seeds given", id="write a sweep"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """On stderr, with exit code 2."""
    assert simulate(*arguments) == 2
    assert says in capsys.readouterr().err


def test_loads_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One SVG beside the table; a single load is no line."""
    path = tmp_path / "sweep.svg"
    loads = ("--load", "0.3", "--load", "0.9", "--policies", "kv_cost,lmetric", "--plot", str(path))
    assert simulate(*SMALL, *loads) == 0
    assert "kv_cost" in path.read_text()
    assert simulate(*SMALL, "--load", "0.3", "--policies", "kv_cost", "--plot", str(path)) != 0
    assert "two loads" in capsys.readouterr().err


SAMPLE = Path(__file__).parent / "samples" / "short_sessions.jsonl"
"""`pointsman simulate --generate short_sessions --sessions 6 --seed 3 --rate 1 --write ...`"""

SHAPE = ("--replicas", "2", "--kv-tokens", "65536", "--policies", "kv_cost,consistent_hash", "--seed", "7", "--json")


def test_a_recorded_trace_is_played_as_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    """Six sessions of three turns, all but the first prompts mostly cached; the same seed gives the same numbers."""
    assert simulate(str(SAMPLE), *SHAPE) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["load"] is None
    assert first["sessions_per_s"] == pytest.approx(1.0, rel=0.5)
    for policy in ("kv_cost", "consistent_hash"):
        found = first["policies"][policy]
        assert found["requests"] == 18
        assert 0.5 < found["hit_rate"] < 1.0
        assert found["ttft_ms"]["p50"] <= found["ttft_ms"]["p95"] <= found["ttft_ms"]["p99"]
        assert found["tpot_ms"]["mean"] > 0 and found["imbalance"] >= 1.0
    assert simulate(str(SAMPLE), *SHAPE) == 0
    assert json.loads(capsys.readouterr().out) == first


def test_a_trace_without_starts_is_played_at_the_knee(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As aiperf writes them: every session at 0."""
    rows = [json.loads(line) for line in SAMPLE.read_text().splitlines()]
    path = tmp_path / "at_once.jsonl"
    path.write_text("".join(json.dumps(row | ({"timestamp": 0} if "timestamp" in row else {})) + "\n" for row in rows))
    assert simulate(str(path), *SHAPE) == 0
    assert json.loads(capsys.readouterr().out)["load"] == 1.0


TENANTS = "tenants:\n  a: {limits: {requests_per_minute: 20}}\n  b: {weight: 4}\n"


def test_settings_of_tenants_are_tried_beside_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same sessions with a file of settings and without: what each tenant got, as JSON, table and plot."""
    path, plot = tmp_path / "tenants.yaml", tmp_path / "tenants.svg"
    path.write_text(TENANTS)
    shares = ("--tenant-shares", "a=3,b=1", "--tenants", "none", "--tenants", str(path), "--load", "0.5")
    assert simulate(*SMALL, *shares, "--plot", str(plot), "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document["policies"]) == {"none", "tenants"}
    assert [one["name"] for one in document["tenants"]["tenants"]] == ["a", "b"]
    free, limited = (document["policies"][name]["tenants"] for name in ("none", "tenants"))
    assert free["a"]["refused"] == {} and limited["a"]["refused"]["requests_per_minute"] > 0
    assert free["b"]["requests"] == limited["b"]["requests"]
    assert limited["b"]["weight_share"] == 0.8
    assert "<circle" in plot.read_text()
    assert simulate(*SMALL, *shares) == 0
    assert "requests/min" in capsys.readouterr().out


def test_clients_of_a_table_are_tenants_of_the_written_trace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their own times at a rate; played from the file as generated, by another name of the field."""
    rates, out = tmp_path / "rates.csv", tmp_path / "trace.jsonl"
    rates.write_text(
        "client,window_start_s,rate_rps,arrival,p1,p2\n7,0,9,Gamma,1,0.1\n8,0,3,Weibull,1,0.3\n9,600,1,Gamma,1,1\n"
    )
    assert simulate(*SMALL, "--clients", f"{rates}@0", "--rate", "5", "--write", str(out)) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert {row["tenant"] for row in rows} == {"7", "8"}
    out.write_text("".join(json.dumps(row | {"client": row.pop("tenant")}) + "\n" for row in rows))
    capsys.readouterr()
    fleet = ("--replicas", "2", "--kv-tokens", "100000", "--json")
    assert simulate(str(out), "--tenants-by", "client", *fleet) == 0
    found = json.loads(capsys.readouterr().out)["policies"]["kv_cost"]["tenants"]
    assert sum(one["requests"] for one in found.values()) == 60


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param(("--tenant-shares", "a"), "--tenant-shares: got 'a', expected zipf:N", id="shares"),
        pytest.param(("--tenants", "no.yaml"), "--tenants: no.yaml: cannot be read", id="file"),
        pytest.param(("--tenants", "none", "--tenants", "none"), "files whose names differ", id="twice"),
        pytest.param(("--clients", "x.csv@y"), "expected FILE or FILE@SECONDS", id="window"),
        pytest.param(("--clients", "x.csv", "--tenant-shares", "a=1"), "given beside --tenant-shares", id="both"),
        pytest.param(("--pools", "a,b,c"), "pools: got", id="pools"),
    ],
)
def test_options_of_tenants_that_do_not_fit_are_one_sentence(
    arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """On stderr, with exit code 2."""
    assert simulate(*SMALL, *arguments) == 2
    assert says in capsys.readouterr().err
