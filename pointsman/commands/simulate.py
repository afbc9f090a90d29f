"""`pointsman simulate`: from flags to a fleet in virtual time and a table."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace
from rich.console import Console

from pointsman.documents import read_policy
from pointsman.errors import StartError
from pointsman.policies.errors import PolicyError
from pointsman.simulator.errors import ExperimentError, SimulationError
from pointsman.simulator.experiment import SWEEP, Outcome, Pace, TraceOf, run_experiment
from pointsman.simulator.generate import MAX_REQUESTS, WORKLOADS, describe, generate
from pointsman.simulator.mooncake import TENANT_FIELD, Dialect, read_trace, write_trace
from pointsman.simulator.peers.registry import policy_named
from pointsman.simulator.plots import as_svg
from pointsman.simulator.report import as_json, as_tables
from pointsman.simulator.settings import FleetSettings, Restart
from pointsman.simulator.skew import assign, by_clients, parse_shares, read_client_rates
from pointsman.simulator.tenant_plots import as_svg as tenants_as_svg
from pointsman.simulator.tenants import NO_TENANTS, TenantSet, read_tenants
from pointsman.simulator.trace import Trace

DEFAULT_REQUESTS = 8_000
"""A generated trace has about so many: 400 sessions of agents, enough for a steady state and a p99."""

TABLE_WIDTH = 120

WITHOUT = "none"
"""Value of `--tenants` for no settings, to be compared with some."""


class SimulateOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options of the command line, by the names of `pointsman simulate`; times in milliseconds."""

    trace: Path | None = None
    generate: str | None = None
    sessions: int | None = None
    policies: str = ""
    load: Sequence[float] | None = None
    sweep: bool = False
    rate: float | None = None
    seed: Sequence[int] | None = None
    block_size: int = 64
    dialect: Dialect | None = None
    bytes_per_token: float = 4.0
    private_output: bool = False
    replicas: int = 8
    prefill: int = 0
    kv_tokens: int = 524_288
    speeds: str = ""
    timing: str = "dense-h100"
    routers: int = 1
    sync_ms: float = 10.0
    """Delay between routers; negative: they never hear of each other."""
    event_lag_ms: float = 20.0
    restart: Sequence[str] | None = None
    pools: str = ""
    tenants: Sequence[str] | None = None
    tenants_by: str = TENANT_FIELD
    tenant_shares: str = ""
    clients: str = ""
    retry_limited: bool = False
    plot: Path | None = None
    write: Path | None = None
    json: bool = False

    def __post_init__(self) -> None:
        if self.dialect not in (None, "whole", "added"):
            raise ExperimentError("--dialect", self.dialect, "'whole' or 'added'")

    @property
    def seeds(self) -> Sequence[int]:
        return self.seed or (1,)


def run_simulate(options: SimulateOptions) -> int:
    """Runs and prints. Raises StartError for anything asked for that cannot be."""
    try:
        trace_of = _trace_of(options)
        if options.write is not None:
            return _write(options, trace_of)
        policies = _policies(options.policies)
        settings = _settings(options)
        paces = _paces(options, trace_of)
        tenants = _tenants(options.tenants or ())
        if options.plot is not None and len(paces) < 2 and not trace_of(options.seeds[0]).has_tenants:
            raise ExperimentError("--plot", options.plot, "two loads or more, or tenants", "one load given")
        outcomes = run_experiment(
            trace_of,
            paces=paces,
            policies=policies,
            settings=settings,
            seeds=options.seeds,
            tenants=tenants,
            progress=_progress,
        )
    except (SimulationError, PolicyError) as error:
        raise StartError(str(error)) from error
    if options.plot is not None:
        _draw(outcomes, options.plot)
    if options.json:
        about = {
            "trace": str(options.trace or options.generate),
            "seeds": list(options.seeds),
            "fleet": msgspec.to_builtins(settings),
            "documents": policies,
            "tenants": {of.name: msgspec.to_builtins(of.tenants) for of in tenants if of.tenants},
        }
        print(msgspec.json.format(msgspec.json.encode(as_json(outcomes, about)), indent=1).decode())
    else:
        Console(width=TABLE_WIDTH if not sys.stdout.isatty() else None).print(as_tables(outcomes))
    return 0


def _draw(outcomes: Sequence[Outcome], path: Path) -> None:
    try:
        path.write_text(as_svg(outcomes) if len(outcomes) > 1 else tenants_as_svg(outcomes[0]))
    except OSError as error:
        raise StartError(f"--plot: {path}: cannot be written: {error.strerror}") from error


def _progress(line: str) -> None:
    """One line that overwrites itself, for people only."""
    if sys.stderr.isatty():
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)


def _trace_of(options: SimulateOptions) -> TraceOf:
    """The traces, with the tenants and times that options give their sessions."""
    plain = _plain_trace_of(options)
    if options.tenant_shares and options.clients:
        raise ExperimentError("--clients", options.clients, "nothing", "given beside --tenant-shares")
    if options.tenant_shares:
        shares = parse_shares(options.tenant_shares)
        return lambda seed: assign(plain(seed), shares, seed)
    if options.clients:
        path, at, window = options.clients.rpartition("@")
        if at and not window.isdecimal():
            raise ExperimentError("--clients", options.clients, "FILE or FILE@SECONDS")
        rates = read_client_rates(Path(path if at else window), float(window) if at else None)
        return lambda seed: by_clients(plain(seed), rates, seed)
    return plain


def _plain_trace_of(options: SimulateOptions) -> TraceOf:
    if (options.trace is None) == (options.generate is None):
        problem = "missing" if options.trace is None else f"given beside {options.trace}"
        raise ExperimentError("--generate", options.generate, f"a trace file or one of:\n{describe()}", problem)
    if options.trace is not None:
        read = read_trace(
            options.trace,
            block_size=options.block_size,
            dialect=options.dialect,
            bytes_per_token=options.bytes_per_token,
            reuse_generated=not options.private_output,
            tenants_by=options.tenants_by,
        )
        return lambda seed: read
    name = options.generate or ""
    if name not in WORKLOADS:
        raise ExperimentError("--generate", name, f"one of {', '.join(WORKLOADS)}")
    workload = WORKLOADS[name]
    sessions = options.sessions or max(1, round(DEFAULT_REQUESTS / workload.turns.mean))
    if sessions * workload.turns.mean > MAX_REQUESTS:
        raise ExperimentError("--sessions", sessions, f"at most {MAX_REQUESTS} requests in all")

    def make(seed: int) -> Trace:
        return generate(
            workload,
            sessions=sessions,
            seed=seed,
            name=name,
            bytes_per_token=options.bytes_per_token,
            reuse_generated=not options.private_output,
        )

    return make


def _write(options: SimulateOptions, trace_of: TraceOf) -> int:
    assert options.write is not None
    paces = _paces(options, trace_of)
    if len(paces) > 1 or len(options.seeds) > 1:
        raise ExperimentError("--write", options.write, "one load and one seed", "several loads or seeds given")
    trace = paces[0].apply(trace_of(options.seeds[0]), _settings(options), options.seeds[0])
    write_trace(trace, options.write)
    print(f"{options.write}: {trace.requests} requests in {len(trace.sessions)} sessions")
    return 0


def _paces(options: SimulateOptions, trace_of: TraceOf) -> list[Pace]:
    given = [bool(options.load), options.sweep, options.rate is not None]
    if sum(given) > 1:
        raise ExperimentError("", None, "one of them", "several given", source="--load, --sweep and --rate")
    if options.rate is not None:
        return [Pace(sessions_per_s=options.rate)]
    if options.sweep:
        return [Pace(load=load) for load in SWEEP]
    if options.load:
        return [Pace(load=load) for load in options.load]
    # What was generated, by us or by aiperf, has no pace of its own.
    generated = options.generate is not None and not options.clients
    at_once = generated or not trace_of(options.seeds[0]).has_starts
    return [Pace(load=1.0) if at_once else Pace()]


def _policies(given: str) -> dict[str, dict[str, Any]]:
    """Documents by label: names of policies or peers, or files as `policy.yaml`, separated by commas."""
    found: dict[str, dict[str, Any]] = {}
    for name in filter(None, (part.strip() for part in given.split(","))):
        document = read_policy(name, "policies")
        if document is None:
            found[name] = policy_named(name)
        else:
            found[Path(name).stem] = document
    if not found:
        raise ExperimentError("--policies", given, "at least one name")
    return found


def _tenants(given: Sequence[str]) -> list[TenantSet]:
    """Settings of tenants, from files; `none` is all defaults. A set that is alone needs no name."""
    sets = [TenantSet(WITHOUT) if name == WITHOUT else read_tenants(Path(name)) for name in given]
    names = [of.name for of in sets]
    if len(set(names)) < len(names):
        raise ExperimentError("--tenants", ", ".join(given), "files whose names differ")
    if len(sets) < 2:
        return [replace(of, name="") for of in sets] or [NO_TENANTS]
    return sets


def _settings(options: SimulateOptions) -> FleetSettings:
    try:
        speeds = tuple(float(speed) for speed in options.speeds.split(",") if speed.strip())
    except ValueError:
        raise ExperimentError("--speeds", options.speeds, "numbers separated by commas") from None
    return FleetSettings(
        replicas=options.replicas,
        prefill_replicas=options.prefill,
        kv_tokens=options.kv_tokens,
        speeds=speeds,
        timing=options.timing,
        routers=options.routers,
        sync_s=None if options.sync_ms < 0 else options.sync_ms / 1000,
        event_lag_s=options.event_lag_ms / 1000,
        restarts=tuple(_restart(given) for given in options.restart or ()),
        pools=tuple(pool.strip() for pool in options.pools.split(",")) if options.pools else (),
        retry_limited=options.retry_limited,
    )


def _restart(given: str) -> Restart:
    replica, _, when = given.partition("@")
    at_s, plus, down_s = when.partition("+")
    try:
        if plus:
            return Restart(replica=int(replica), at_s=float(at_s), down_s=float(down_s))
        return Restart(replica=int(replica), at_s=float(at_s))
    except ValueError:
        raise ExperimentError("--restart", given, "REPLICA@SECONDS or REPLICA@SECONDS+DOWN") from None
