"""The command line: one subcommand a process, plus what people run by hand (`pointsman/commands/*_commands.py`).

Every command that cannot do its work as asked prints one sentence and exits with code 2.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec
import typer
import yaml

from pointsman.admin_place import DEFAULT_URL, URL_VARIABLE
from pointsman.commands.alias_commands import aliases as alias_group
from pointsman.commands.decision_commands import deciding
from pointsman.commands.fleet_commands import PANEL as CHANGE
from pointsman.commands.fleet_commands import fleet
from pointsman.commands.options import ASKED, Ca, Token
from pointsman.commands.policy_commands import policy as policy_group
from pointsman.commands.sentence import one_sentence_on_error
from pointsman.commands.tenancy_commands import keys, tenants
from pointsman.contract.config import read_mapping
from pointsman.contract.effective import shown
from pointsman.documents import policy_document

RUN = "Run an edge"
"""Heading of the commands that start something, in `pointsman --help`."""

app = typer.Typer(
    name="pointsman",
    help="A routing control plane for fleets of vLLM replicas. HAProxy carries the bytes; Pointsman sets the points.",
    epilog="Example: pointsman up; in another terminal pointsman status and pointsman tail. Manual: docs/commands.md",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
engine = typer.Typer(help="Run replicas: simulated ones, or vLLM engines as Ray actors.", no_args_is_help=True)
haproxy = typer.Typer(help="Render the configuration of an edge's HAProxy.", no_args_is_help=True)
app.add_typer(engine, name="engine", rich_help_panel=RUN)
app.add_typer(haproxy, name="haproxy", rich_help_panel=RUN)
app.add_typer(fleet)
app.add_typer(deciding)
app.add_typer(policy_group, name="policy", rich_help_panel=CHANGE)
app.add_typer(alias_group, name="aliases", rich_help_panel=CHANGE)
app.add_typer(keys, name="keys", rich_help_panel=CHANGE)
app.add_typer(tenants, name="tenants", rich_help_panel=CHANGE)
state = typer.Typer(help="Show and compare the state of edges that share it.", no_args_is_help=True)
app.add_typer(state, name="state", rich_help_panel=CHANGE)
token = typer.Typer(help="Make tokens of the admin API.", no_args_is_help=True)
app.add_typer(token, name="token", rich_help_panel=CHANGE)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def _print_version(asked: bool) -> None:
    if asked:
        version()
        raise typer.Exit


@app.callback()
def root(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of all commands."""


@app.command(rich_help_panel=RUN)
def up(
    replicas: Annotated[int, typer.Option(min=0, max=256, help="Number of replicas; 0 starts an empty edge.")] = 4,
    prefill: Annotated[
        int,
        typer.Option(min=0, max=256, help="Number of simulated prefill replicas; the other replicas then decode."),
    ] = 0,
    engine: Annotated[str, typer.Option(help="Engine of the replicas: sim or vllm.")] = "sim",
    model: Annotated[
        str, typer.Option(help="Model path or name. Without a GPU and without this, vllm serves a tiny seeded model.")
    ] = "",
    listen: Annotated[str, typer.Option(help="Address that clients connect to, HOST:PORT.")] = "127.0.0.1:8000",
    admin: Annotated[str, typer.Option(help="Address of the admin API and metrics, HOST:PORT.")] = "127.0.0.1:8001",
    policy: Annotated[str | None, typer.Option(help="Policy name, file or inline document.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with the sections router, haproxy and engine.")] = None,
    edges: Annotated[
        int, typer.Option(min=1, max=64, help="Number of edges, on consecutive ports from --listen and --admin.")
    ] = 1,
    redis: Annotated[
        str,
        typer.Option(help="URL of the Redis or Valkey that edges share; with --edges, a server is started if absent."),
    ] = "",
    lookup: Annotated[str | None, typer.Option(help="Transport of HAProxy's lookups: spoe or lua.")] = None,
    require_keys: Annotated[
        bool, typer.Option("--require-keys", help="Refuse requests without an API key of `pointsman keys create`.")
    ] = False,
    run_dir: Annotated[
        Path | None,
        typer.Option(help="Folder for sockets, rendered configuration and logs; a temporary one if absent."),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print more while starting.")] = False,
) -> None:
    """Start a whole edge, or several: HAProxy, router and replicas. Ctrl-C drains and leaves nothing behind."""
    from pointsman.up.plan import UpOptions
    from pointsman.up.supervise import run_up

    with one_sentence_on_error():
        options = UpOptions(
            replicas=replicas,
            prefill=prefill,
            engine=engine,
            model=model,
            listen=listen,
            admin=admin,
            policy=policy_document(policy),
            config=config,
            edges=edges,
            redis=redis,
            lookup=lookup,
            require_keys=require_keys,
            run_dir=run_dir,
            verbose=verbose,
        )
        code = run_up(options)
    raise typer.Exit(code)


@app.command(rich_help_panel=RUN)
def router(
    config: Annotated[Path | None, typer.Option(help="YAML settings file.")] = None,
    policy: Annotated[str | None, typer.Option(help="Policy name, file or inline document.")] = None,
    check_config: Annotated[bool, typer.Option("--check-config", help="Check the settings and exit.")] = False,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the resulting settings and exit.")
    ] = False,
    sources: Annotated[
        Path | None,
        typer.Option(hidden=True, help="YAML file that says where each value of the settings file comes from."),
    ] = None,
) -> None:
    """Run one router: answer HAProxy's lookups, manage its servers, serve the admin API."""
    from pointsman.router.app import run
    from pointsman.router.fronts.admin_access import AdminAccess
    from pointsman.router.process.logs import configure
    from pointsman.router.process.readiness import Readiness
    from pointsman.router.settings import read_settings

    with one_sentence_on_error():
        loaded = read_settings(
            config,
            overrides={"command line": {"policy": policy_document(policy)}},
            file_sources=read_mapping(sources, str(sources)) if sources is not None else None,
        )
        if print_config:
            print(yaml.safe_dump(shown("", msgspec.to_builtins(loaded.settings)), sort_keys=False), end="")
            return
        if check_config:
            AdminAccess(loaded.settings.admin, readiness=Readiness()).load()
            print("the settings are valid")
            return
        configure(level=loaded.settings.log.level, fmt=loaded.settings.log.format)
        code = run(*loaded)
    raise typer.Exit(code)


@engine.command("sim")
def engine_sim(
    id: Annotated[str | None, typer.Option(help="Replica id.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="TCP port to listen on; 0 lets the system pick one.")
    ] = None,
    register: Annotated[list[str] | None, typer.Option(help="Admin URL of a router; may be repeated.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with the simulated engine's settings.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE of one setting, e.g. model=tiny; may be repeated.")
    ] = None,
) -> None:
    """Run one simulated replica: vLLM's HTTP surface over a modelled engine."""
    from pointsman.commands.engine import run_sim

    with one_sentence_on_error():
        code = run_sim(id=id, host=host, port=port, register=register or [], config=config, assignments=set_ or [])
    raise typer.Exit(code)


@engine.command("vllm")
def engine_vllm(
    replicas: Annotated[
        int | None, typer.Option(min=1, max=256, help="Number of replicas; the file's, or 1, if absent.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Model path or name; a tiny seeded model is made if absent.")
    ] = None,
    register: Annotated[list[str] | None, typer.Option(help="Admin URL of a router; may be repeated.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with the engine's settings.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE of one setting; may be repeated.")] = None,
) -> None:
    """Run vLLM replicas as Ray actors that serve the OpenAI API themselves."""
    from pointsman.commands.engine import run_vllm

    with one_sentence_on_error():
        code = run_vllm(replicas=replicas, model=model, register=register or [], config=config, assignments=set_ or [])
    raise typer.Exit(code)


SimulatedTenants = Annotated[
    list[str] | None,
    typer.Option(help="File with the settings of tenants, or none; may be repeated, and they are compared."),
]
RetryLimited = Annotated[
    bool, typer.Option("--retry-limited", help="Have clients ask again when they are over a limit.")
]
SimulatedShares = Annotated[
    str,
    typer.Option(
        help="Tenants that send the sessions: zipf:N, zipf:N:EXPONENT or NAME=SHARE[:PRIORITY], separated by commas."
    ),
]
SimulatedClients = Annotated[
    str,
    typer.Option(
        metavar="FILE[@SECONDS]",
        help="CSV file of clients with their rates, as ServeGen has them, and the window to take: each is a tenant.",
    ),
]


@app.command(rich_help_panel=RUN)
def simulate(
    trace: Annotated[Path | None, typer.Argument(help="Trace in Mooncake's JSON lines.")] = None,
    generate: Annotated[str | None, typer.Option(help="Workload to generate instead of a trace, e.g. agentic.")] = None,
    policies: Annotated[str, typer.Option(help="Policies, peers or policy files, separated by commas.")] = "kv_cost",
    load: Annotated[list[float] | None, typer.Option(min=0.001, help="Share of the knee; may be repeated.")] = None,
    sweep: Annotated[bool, typer.Option("--sweep", help="Loads from 0.3 to 1.3 of the knee.")] = False,
    rate: Annotated[float | None, typer.Option(min=1e-6, help="Sessions per second, instead of a load.")] = None,
    seed: Annotated[
        list[int] | None, typer.Option(help="Seed of the run; may be repeated, and policies are compared seed by seed.")
    ] = None,
    sessions: Annotated[
        int | None, typer.Option(min=1, help="Number of sessions to generate; about 8,000 requests if absent.")
    ] = None,
    replicas: Annotated[int, typer.Option(min=1, max=4096, help="Number of replicas.")] = 8,
    prefill: Annotated[
        int, typer.Option(min=0, help="Number of additional replicas that compute the prompts of the others.")
    ] = 0,
    kv_tokens: Annotated[int, typer.Option(min=1, help="KV capacity of a replica, tokens.")] = 524_288,
    speeds: Annotated[str, typer.Option(help="Speed of each replica, e.g. 1,1,0.5; repeated until all have one.")] = "",
    timing: Annotated[str, typer.Option(help="Preset of step durations: dense-h100 or fast.")] = "dense-h100",
    routers: Annotated[int, typer.Option(min=1, max=64, help="Number of routers that share the requests.")] = 1,
    sync_ms: Annotated[
        float, typer.Option(help="Delay until routers receive each other's updates, ms; negative: never.")
    ] = 10.0,
    event_lag_ms: Annotated[
        float, typer.Option(min=0, help="Delay until routers receive engines' reports, ms.")
    ] = 20.0,
    restart: Annotated[
        list[str] | None, typer.Option(help="Death of a replica as REPLICA@SECONDS+DOWN; may be repeated.")
    ] = None,
    pools: Annotated[str, typer.Option(help="Pool of each replica, e.g. paid,free; repeated until all have one.")] = "",
    tenants: SimulatedTenants = None,
    tenants_by: Annotated[str, typer.Option(help="Field of the trace file that has the tenant.")] = "tenant",
    tenant_shares: SimulatedShares = "",
    clients: SimulatedClients = "",
    retry_limited: RetryLimited = False,
    block_size: Annotated[int, typer.Option(min=1, help="Tokens per block of the trace file.")] = 64,
    dialect: Annotated[str | None, typer.Option(help="Meaning of the lengths of later turns: whole or added.")] = None,
    bytes_per_token: Annotated[float, typer.Option(min=0.5, max=64, help="Bytes of a body per token.")] = 4.0,
    private_output: Annotated[
        bool, typer.Option("--private-output", help="Treat answers as absent from the cache of the next turn.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(help="SVG file for a plot over all loads; needs two loads or more.")
    ] = None,
    write: Annotated[
        Path | None, typer.Option(help="File to write the trace to, at that load; nothing is simulated.")
    ] = None,
    json: Json = False,
) -> None:
    """Play a trace through the real policies on a fleet of modelled engines, in virtual time."""
    given = locals()  # an option of this command is a field of the same name
    from pointsman.commands.simulate import SimulateOptions, run_simulate

    with one_sentence_on_error():
        code = run_simulate(SimulateOptions(**given))
    raise typer.Exit(code)


@haproxy.command("render")
def haproxy_render(
    config: Annotated[Path | None, typer.Option(help="YAML file with the edge's values; defaults if absent.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for haproxy.cfg and the files it refers to.")] = Path(),
    state: Annotated[
        Path | None, typer.Option(help="A router's state file: HAProxy starts with the replicas saved there.")
    ] = None,
) -> None:
    """Write HAProxy's configuration for an edge."""
    from pointsman.commands.haproxy import render_to

    with one_sentence_on_error():
        for path in render_to(config, out, state):
            print(path)


AdminUrls = Annotated[
    list[str],
    typer.Option(
        "--admin",
        envvar=URL_VARIABLE,
        metavar="URL",
        help="URL of an edge's admin API, which names the other edges; may be repeated.",
        rich_help_panel=ASKED,
    ),
]
ONE_EDGE = [DEFAULT_URL]


@state.command("dump", epilog="Example: pointsman state dump --admin http://edge-1:8001")
def state_dump(admin: AdminUrls = ONE_EDGE, token: Token = "", ca: Ca = None, json: Json = False) -> None:
    """Print all edges, how closely each follows the others, and how much each knows."""
    from pointsman.commands.state import run_dump

    with one_sentence_on_error():
        code = run_dump(admin, token=token, ca=ca, as_json=json)
    raise typer.Exit(code)


@state.command("check", epilog="Example: pointsman state check --admin http://edge-1:8001 --json")
def state_check(admin: AdminUrls = ONE_EDGE, token: Token = "", ca: Ca = None, json: Json = False) -> None:
    """Check that all edges follow each other and know the same; otherwise print the differences, exit code 1."""
    from pointsman.commands.state import run_check

    with one_sentence_on_error():
        code = run_check(admin, token=token, ca=ca, as_json=json)
    raise typer.Exit(code)


@token.command("create")
def token_create(
    name: Annotated[str, typer.Option(help="Name of the token, under which changes are recorded.")],
    role: Annotated[list[str], typer.Option(help="Role: read, operate or engine; may be repeated.")],
    days: Annotated[
        int | None, typer.Option(min=1, max=36_500, help="Days until the token expires; never if absent.")
    ] = None,
    file: Annotated[Path | None, typer.Option(help="File of admin.tokens_file to add the token to.")] = None,
    json: Json = False,
) -> None:
    """Make a token, print it once, and add its hash to a file or print the line for one."""
    from pointsman.commands.tokens import run_create

    with one_sentence_on_error():
        code = run_create(name, role, days=days, file=file, as_json=json)
    raise typer.Exit(code)


@app.command(hidden=True)
def version() -> None:
    """Print the version."""
    from pointsman.router.process.version import product_version

    print(product_version())


def main(argv: list[str] | None = None) -> None:
    """Entry point of the `pointsman` script."""
    command: Callable[..., None] = app
    command(args=argv, prog_name="pointsman") if argv is not None else command()


if __name__ == "__main__":
    main()
