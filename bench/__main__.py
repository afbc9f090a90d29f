"""`python -m bench`: the edge beside its peer, lookups, failover; without a command, all of them in short.

Tables go to stdout, progress to stderr. `--json` prints the report instead, `--out` writes it to a file;
`python -m bench docs FILE` puts a report's tables onto docs/benchmarks.md. No bench fails for being slow: exit code 1
says that something did not work or answered wrongly.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop
from rich.console import Console

from bench.agentic import AgenticOptions, run_agentic
from bench.aiperf import AIPERF_VERSION
from bench.cpu import ProcessEndedError
from bench.edge import EdgeOptions, run_edge
from bench.failover import run_failover
from bench.faults import FaultOptions, run_faults
from bench.limits import LimitsOptions, run_limits
from bench.lookup import LookupOptions, run_lookup
from bench.pace import LoadError
from bench.peers import VLLM_ROUTER_VERSION, PeerError
from bench.queueing import QueueOptions, run_queueing
from bench.report import Bystanders, Report, Table, load_report, make_report, write_docs
from bench.scale import ScaleOptions, run_scale
from bench.scene import FailoverOptions
from bench.survival import run_survival
from bench.tenancy import TenancyOptions, run_tenancy
from bench.usage import UsageOptions, run_usage
from bench.watching import run_watching

app = typer.Typer(help="Benches of whole edges.", add_completion=False, pretty_exceptions_enable=False)

Quick = Annotated[bool, typer.Option("--quick", help="Short slices: does it work, roughly how much.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON instead of tables.")]
Out = Annotated[Path | None, typer.Option(help="Also write the report to this file.")]
Duration = Annotated[float | None, typer.Option(min=0.2, help="Seconds of one measured slice.")]
Compiled = Annotated[bool, typer.Option("--compiled", help="Measure what `make compiled` installs as well.")]

Bench = Callable[[], Coroutine[Any, Any, tuple[list[Table], dict[str, Any]]]]


@app.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    """Without a command: all benches, quick."""
    if context.invoked_subcommand is None:
        run_all(quick=True)


@app.command("edge")
def edge_command(
    quick: Quick = False, json: AsJson = False, out: Out = None, duration: Duration = None, compiled: Compiled = False
) -> None:
    """CPU per request and per streamed token, beside vllm-router."""
    run({"edge": _edge(quick, duration, compiled)}, json, out)


@app.command("lookup")
def lookup_command(
    quick: Quick = False, json: AsJson = False, out: Out = None, duration: Duration = None, compiled: Compiled = False
) -> None:
    """Latency of lookups at 2,000 a second, and what one costs the router."""
    run({"lookup": _lookup(quick, duration, compiled)}, json, out)


@app.command("watching")
def watching_command(quick: Quick = False, json: AsJson = False, out: Out = None, duration: Duration = None) -> None:
    """Cost of decision records, the access log and followers, per lookup: five minutes, with --quick one."""
    options = LookupOptions.quick() if quick else LookupOptions()
    options = replace(options, slice_s=duration or options.slice_s)
    run({"watching": lambda: run_watching(options)}, json, out)


@app.command("tenancy")
def tenancy_command(quick: Quick = False, json: AsJson = False, out: Out = None) -> None:
    """Cost of API keys and limits, per lookup."""
    options = TenancyOptions.quick() if quick else TenancyOptions()
    run({"tenancy": lambda: run_tenancy(options)}, json, out)


@app.command("usage")
def usage_command(quick: Quick = False, json: AsJson = False, out: Out = None) -> None:
    """Cost of counting usage, per request."""
    options = UsageOptions.quick() if quick else UsageOptions()
    run({"usage": lambda: run_usage(options)}, json, out)


@app.command("limits")
def limits_command(quick: Quick = False, json: AsJson = False, out: Out = None) -> None:
    """One limit kept by two and by four edges: sixteen minutes, with --quick two."""
    options = LimitsOptions.quick() if quick else LimitsOptions()
    run({"limits": lambda: run_limits(options)}, json, out)


@app.command("failover")
def failover_command(quick: Quick = False, json: AsJson = False, out: Out = None) -> None:
    """Requests that fail when a part fails, leaves or joins."""
    run({"failover": _failover(quick)}, json, out)


@app.command("queue")
def queue_command(
    quick: Quick = False,
    json: AsJson = False,
    out: Out = None,
    lookup: Annotated[str, typer.Option(help="Transport of lookups: spoe or lua.")] = "spoe",
    scene: Annotated[
        str,
        typer.Option(
            help="fairness, shares, classes, batch, 'batch of a fleet', waiting, 'router killed' or reload; empty: all."
        ),
    ] = "",
) -> None:
    """Requests that wait at the edge: order, shares, a batch, and what waiting costs: eleven minutes, or five."""
    options = QueueOptions.quick(lookup=lookup, scene=scene) if quick else QueueOptions(lookup=lookup, scene=scene)
    run({"queue": lambda: run_queueing(options)}, json, out)


@app.command("faults")
def faults_command(
    quick: Quick = False,
    json: AsJson = False,
    out: Out = None,
    policy: Annotated[list[str] | None, typer.Option(help="Policies to play; all where none is named.")] = None,
    scene: Annotated[list[str] | None, typer.Option(help="Scenes to play; all where none is named.")] = None,
    only: Annotated[str, typer.Option(help="Play one half alone: replicas or scenes.")] = "",
) -> None:
    """Replicas that fail behind green health checks, and what lies, outsiders and dying parts cost: about an hour, with
    --quick eight minutes."""
    if only not in ("", "replicas", "scenes"):
        raise typer.BadParameter(f"--only: {only!r}: replicas or scenes is expected")
    options = FaultOptions.quick() if quick else FaultOptions()
    if policy:
        options = replace(options, policies=tuple(policy))
    benches: dict[str, Bench] = {"faults": lambda: run_faults(options), "survival": lambda: run_survival(scene or ())}
    if only:
        del benches["survival" if only == "replicas" else "faults"]
    run(benches, json, out)


@app.command("scale")
def scale_command(
    quick: Quick = False,
    json: AsJson = False,
    out: Out = None,
    only: Annotated[str, typer.Option(help="Measure one half alone: streams or replicas.")] = "",
) -> None:
    """Memory of thousands of streams, and an edge with 1,000 replicas: about eight minutes, with --quick one."""
    if only not in ("", "streams", "replicas"):
        raise typer.BadParameter(f"--only: {only!r}: streams or replicas is expected")
    options = ScaleOptions.quick() if quick else ScaleOptions()
    if only == "streams":
        options = replace(options, fleets=None)
    if only == "replicas":
        options = replace(options, streams=None)
    run({"scale": lambda: run_scale(options)}, json, out)


@app.command("agentic")
def agentic_command(
    quick: Quick = False,
    json: AsJson = False,
    out: Out = None,
    sessions: Annotated[int | None, typer.Option(min=1, help="Sessions of the trace.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="How often each side plays it.")] = None,
) -> None:
    """Agents played by aiperf through the edge, beside vllm-router; about 25 minutes, with --quick three."""
    options = AgenticOptions.quick() if quick else AgenticOptions()
    options = replace(options, sessions=sessions or options.sessions, rounds=rounds or options.rounds)
    run({"agentic": lambda: run_agentic(options)}, json, out)


@app.command("all")
def run_all(
    quick: Quick = False, json: AsJson = False, out: Out = None, duration: Duration = None, compiled: Compiled = False
) -> None:
    """Edge, lookup and failover, one after the other: about ten minutes, with --quick a little over one."""
    edge, lookup = _edge(quick, duration, compiled), _lookup(quick, duration, compiled)
    run({"edge": edge, "lookup": lookup, "failover": _failover(quick)}, json, out)


@app.command("docs")
def docs_command(file: Annotated[Path, typer.Argument(help="A report written by --out.")]) -> None:
    """Put the tables of a report onto docs/benchmarks.md."""
    write_docs(load_report(file))


def _edge(quick: bool, duration: float | None, compiled: bool) -> Bench:
    options = EdgeOptions.quick() if quick else EdgeOptions()
    return lambda: run_edge(replace(options, compiled=compiled, slice_s=duration or options.slice_s))


def _lookup(quick: bool, duration: float | None, compiled: bool) -> Bench:
    options = LookupOptions.quick() if quick else LookupOptions()
    return lambda: run_lookup(replace(options, compiled=compiled, slice_s=duration or options.slice_s))


def _failover(quick: bool) -> Bench:
    return lambda: run_failover(FailoverOptions.quick() if quick else FailoverOptions())


def run(benches: dict[str, Bench], as_json: bool, out: Path | None) -> None:
    """Runs benches one after the other, prints as each ends, and reports at the end all that worked."""
    bystanders = Bystanders()
    console = Console(width=None if sys.stdout.isatty() else 200)
    tables: list[Table] = []
    figures: dict[str, Any] = {}
    failed = False
    for name, bench in benches.items():
        try:
            made, figures[name] = uvloop.run(bench())
        except (PeerError, LoadError, ProcessEndedError) as error:
            print(f"bench {name}: {error}", file=sys.stderr)
            failed = True
            continue
        tables += made
        if not as_json:
            for table in made:
                table.print(console)
    peers = {"vllm-router": VLLM_ROUTER_VERSION} if benches.keys() & {"edge", "agentic", "scale"} else {}
    if "agentic" in benches:
        peers["aiperf"] = AIPERF_VERSION
    report = make_report(sys.argv[1:], bystanders, peers, tables, figures)
    if as_json:
        print(report.json())
    else:
        console.print(_where(report), highlight=False)
    if out is not None:
        out.write_text(report.json() + "\n")
    if failed:
        raise typer.Exit(1)


def _where(report: Report) -> str:
    said = [*report.machine.values(), *(f"{name} {number}" for name, number in report.versions.items())]
    return f"{', '.join(said)}; {report.command}"


app(prog_name="python -m bench")
