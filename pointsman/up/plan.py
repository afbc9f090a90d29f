"""Plan of `pointsman up`, complete before anything starts: addresses, files, command lines.

`plan_edges` checks all that can be checked without starting a process, so a wrong flag is one sentence and not half an
edge.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import yaml

from pointsman.contract.config import decode
from pointsman.contract.effective import given_values
from pointsman.contract.errors import ConfigurationError
from pointsman.contract.private_files import write_private
from pointsman.contract.registration import Role
from pointsman.errors import StartError
from pointsman.haproxy.config import DEFAULT_PRIORITY_HEADER, Bind, EdgeConfig
from pointsman.haproxy.errors import ConfigError
from pointsman.policies.errors import PolicyConfigError
from pointsman.policies.registry import build_policy_set
from pointsman.router.decide.body_needs import body_window
from pointsman.router.process.listen import Listen
from pointsman.router.settings import LoadedSettings, Settings, read_settings
from pointsman.up.ports import parse_listen
from pointsman.up.run_folder import RunFolder
from pointsman.up.sections import (
    NEAR,
    UpFile,
    check_sections,
    decode_engine,
    named_by_section,
    read_file,
    router_section,
    source_of,
)
from pointsman.up.valkey import valkey_url

KEYS_FILE = "keys.map"
ENGINES = ("sim", "vllm")
LOOKUPS = ("spoe", "lua")


@dataclass(frozen=True, kw_only=True)
class UpOptions:
    """The flags of `pointsman up`."""

    replicas: int = 4
    prefill: int = 0
    engine: str = "sim"
    model: str = ""
    listen: str = "127.0.0.1:8000"
    admin: str = "127.0.0.1:8001"
    policy: dict[str, Any] | None = None
    config: Path | None = None
    edges: int = 1
    redis: str = ""
    """URL of what edges share through; empty with several edges: a Valkey of their own."""
    lookup: str | None = None
    require_keys: bool = False
    """Whether HAProxy refuses requests without an API key that was made at the router."""
    run_dir: Path | None = None
    verbose: bool = False


@dataclass(frozen=True, kw_only=True)
class EdgePlan:
    """Everything needed to start the parts of one edge."""

    options: UpOptions
    folder: RunFolder
    listen: Listen
    admin: Listen
    settings: Settings
    edge: EdgeConfig
    replicas: int
    """Number of replicas that will register; every rank of a data-parallel group counts."""
    engine_settings: dict[str, Any] = field(default_factory=dict)
    other_admin_urls: tuple[str, ...] = ()
    """Of the other edges that replicas register with."""
    window_is_configured: bool = False
    """The file says how far HAProxy looks into bodies, whatever the policy."""

    @property
    def run_dir(self) -> Path:
        """Where the edge's sockets and files are."""
        return self.folder.path

    @property
    def _registers(self) -> list[str]:
        return [word for url in (self.admin_url, *self.other_admin_urls) for word in ("--register", url)]

    @property
    def admin_url(self) -> str:
        host = self.admin.host
        if host in ("0.0.0.0", "::"):
            host = "127.0.0.1" if host == "0.0.0.0" else "::1"
        return f"{self.settings.admin.scheme}://{Listen(host, self.admin.port)}"

    @property
    def router_config(self) -> Path:
        return self.run_dir / "router.yaml"

    @property
    def router_sources(self) -> Path:
        """File that says where each value of `router_config` comes from."""
        return self.run_dir / "router.sources.yaml"

    @property
    def state_file(self) -> Path:
        return self.run_dir / "state.json"

    def log_file(self, name: str) -> Path:
        return self.folder.logs / f"{name}.log"

    def router_argv(self) -> list[str]:
        return [*COMMAND, "router", "--config", str(self.router_config), "--sources", str(self.router_sources)]

    def sim_argvs(self) -> dict[str, list[str]]:
        """The command lines of the simulated replicas, by replica id."""
        role = Role.DECODE if self.options.prefill else Role.BOTH
        argvs = {name: self.sim_argv(name, role) for name in _numbered("sim", self.options.replicas)}
        return argvs | {name: self.sim_argv(name, Role.PREFILL) for name in _numbered("prefill", self.options.prefill)}

    def sim_argv(self, name: str, role: Role = Role.BOTH) -> list[str]:
        """The command line of one simulated replica."""
        argv = [*COMMAND, "engine", "sim", "--id", name, *self._registers]
        if self.engine_settings:
            argv += ["--config", str(self.run_dir / "engine.yaml")]
        # HAProxy keeps connections for reuse: the replica must not be the one that closes them.
        argv += ["--set", "keep_alive_s=75"]
        if self.options.model:
            argv += ["--set", f"model={self.options.model}"]
        if role is not Role.BOTH:
            argv += ["--set", f"role={role}"]
        return argv

    def vllm_argv(self) -> list[str]:
        """The command line of the driver of all vLLM replicas."""
        argv = [*COMMAND, "engine", "vllm", *self._registers]
        if "pools" not in self.engine_settings:
            argv += ["--replicas", str(self.options.replicas)]
        if self.engine_settings:
            argv += ["--config", str(self.run_dir / "engine.yaml")]
        if self.options.model:
            argv += ["--model", self.options.model]
        return argv


def _numbered(name: str, count: int) -> list[str]:
    return [f"{name}-{number}" for number in range(1, count + 1)]


COMMAND = (sys.executable, "-m", "pointsman")


def _check_flags(options: UpOptions) -> None:
    """Raises ConfigurationError or StartError for what can be seen without touching anything."""
    if options.engine not in ENGINES:
        raise ConfigurationError("--engine", options.engine, f"one of {', '.join(ENGINES)}")
    if options.prefill and options.engine != "sim":
        raise StartError("--prefill: simulated replicas only; for vLLM name pools with a role in the engine's file")


def _check_file(options: UpOptions, document: UpFile) -> None:
    """Raises ConfigurationError for a mistake in any section, before a port or a folder is taken."""
    admin = parse_listen(options.admin, "--admin")
    where = {"host": admin.host, "port": admin.port}
    check_sections(options.config, document, admin=where, engine=options.engine)
    if options.policy:
        try:
            build_policy_set(options.policy).close()
        except PolicyConfigError as error:
            raise ConfigurationError(error.key, error.value, error.expected, error.problem, "--policy") from error


def _plan(options: UpOptions, folder: RunFolder) -> EdgePlan:
    """Checks flags and file and lays the run folder out. Raises ConfigurationError or StartError."""
    document = read_file(options.config)
    lookup = options.lookup or document.haproxy.get("lookup", "spoe")
    if lookup not in LOOKUPS:
        raise ConfigurationError("--lookup", lookup, f"one of {', '.join(LOOKUPS)}")
    ports = folder.ports
    listen = ports.settle(parse_listen(options.listen, "--listen"), "--listen")
    admin = ports.settle(parse_listen(options.admin, "--admin"), "--admin")
    if listen == admin:
        raise StartError(f"--admin: {admin} is the address clients use too (--listen): choose another with --admin")
    ops = ports.pick()
    run_dir = folder.path
    near = _near_addresses(folder, document)
    spop, ring, near_lookup = near
    loaded = _settings(options, folder, document, admin, near)
    settings = loaded.settings
    edge = decode(
        {
            "ops": {"host": "127.0.0.1", "port": ops},
            "threads": default_threads(os.cpu_count() or 1),
            **_body_window(settings),
            **({"priority_header": DEFAULT_PRIORITY_HEADER} if options.require_keys else {}),
            **document.haproxy,
            **({"keys_map": str(run_dir / KEYS_FILE)} if options.require_keys else {}),
            "lookup": lookup,
            "binds": document.haproxy.get("binds") or [msgspec.to_builtins(Bind(listen.host, listen.port))],
            "spop_address": spop.address,
            "ring_address": ring.address,
            "lookup_address": near_lookup.address,
            "models_address": near_lookup.address,
            "admin_socket": str(run_dir / "admin.sock"),
            "master_socket": str(run_dir / "master.sock"),
            "policy_override": settings.override_header,
            "tracing": bool(settings.tracing.endpoint),
            "isolate_tenants": settings.isolate_tenants,
        },
        EdgeConfig,
        source=source_of(options.config, "haproxy"),
        error=ConfigError,
    )
    made = EdgePlan(
        options=options,
        folder=folder,
        listen=listen,
        admin=admin,
        settings=settings,
        edge=edge,
        replicas=_replicas(options, document.engine),
        engine_settings=document.engine,
        window_is_configured="body_window_bytes" in document.haproxy,
    )
    _write_yaml(made.router_config, given_values(*loaded))  # it may hold the admin token
    _write_yaml(made.router_sources, dict(loaded.sources))
    if document.engine:
        _write_yaml(run_dir / "engine.yaml", document.engine)
    return made


def _settings(
    options: UpOptions, folder: RunFolder, document: UpFile, admin: Listen, near: Sequence[_Near]
) -> LoadedSettings:
    """The router's settings: those of the file, with the addresses of this edge."""
    spop, ring, near_lookup = near
    run_dir = folder.path
    chosen = {
        "spop": spop.listen,
        "ring": ring.listen,
        "lookup": near_lookup.listen,
        "admin": {"host": admin.host, "port": admin.port},
        "edge": {
            "admin_socket": str(run_dir / "admin.sock"),
            "master_socket": str(run_dir / "master.sock"),
            "keys_file": str(run_dir / KEYS_FILE) if options.require_keys else None,
        },
        "documents_file": str(run_dir / "documents.db"),
        "state_file": str(run_dir / "state.json"),
        "usage": {"file": str(run_dir / "usage.db")},
    }
    flags = {"policy": options.policy or None, "shared": {"url": options.redis or None}}
    return read_settings(
        overrides={
            source_of(options.config, "router"): router_section(document),
            source_of(options.config, "haproxy"): {"edge": {"server_options": document.haproxy.get("server_options")}},
            "pointsman up": chosen,
            "command line": flags,
        }
    )


def _write_yaml(path: Path, document: dict[str, Any]) -> None:
    try:
        write_private(path, yaml.safe_dump(document, sort_keys=False).encode())
    except OSError as error:
        raise StartError(f"--run-dir: {path}: cannot be written: {error.strerror}") from None


def _replicas(options: UpOptions, engine: dict[str, Any]) -> int:
    if options.engine != "vllm" or not options.replicas:
        return options.replicas + options.prefill
    tree = dict(engine)
    if "pools" not in tree:
        tree |= {"replicas": options.replicas, "model": options.model or tree.get("model", "tiny")}
    return sum(pool.replicas * pool.data_parallel_size for pool in decode_engine(options.config, tree).pools)


class _Near(NamedTuple):
    """One address, as the router listens on it and as HAProxy connects to it."""

    listen: dict[str, Any]
    address: str


def _near_addresses(folder: RunFolder, document: UpFile) -> list[_Near]:
    """The addresses of `NEAR`: Unix sockets, but for an HAProxy that gives up the rights to them."""
    if document.haproxy.get("user") or document.haproxy.get("chroot"):
        return [_Near({"port": port}, f"127.0.0.1:{port}") for port in (folder.ports.pick() for _ in NEAR)]
    paths = [f"{folder.path}/{name}.sock" for name in NEAR]
    return [_Near({"path": path}, f"unix@{path}") for path in paths]


def plan_edges(options: UpOptions) -> list[EdgePlan]:
    """All edges of one `up`. The first has the run folder, the others one inside it.

    Edge n listens n - 1 ports further than the first; twice as far where --listen and --admin would meet. Raises
    StartError, SettingsError or ConfigError, and leaves no folder behind then.
    """
    _check_flags(options)
    document = read_file(options.config)
    _check_file(options, document)
    if options.edges > 1 and document.haproxy.get("binds"):
        raise StartError(f"--edges: {options.edges}: only one edge can have the haproxy.binds of {options.config}")
    with ExitStack() as undo, named_by_section(options.config):
        folder = RunFolder.take(options.run_dir)
        undo.callback(folder.refuse)
        if options.edges == 1:
            made = [_plan(options, folder)]
        else:
            made = _plan_several(options, folder, document, undo)
        undo.pop_all()
    return made


def _plan_several(options: UpOptions, first: RunFolder, document: UpFile, undo: ExitStack) -> list[EdgePlan]:
    if not options.redis and not document.router.get("shared", {}).get("url"):
        options = replace(options, redis=valkey_url(first.path))
    listen, admin = parse_listen(options.listen, "--listen"), parse_listen(options.admin, "--admin")
    meet = listen.host == admin.host and 0 < abs(listen.port - admin.port) < options.edges
    step = 2 if meet else 1
    made = []
    for number in range(options.edges):
        folder = first
        if number:
            folder = RunFolder.take(first.path / f"edge-{number + 1}")
            undo.callback(folder.refuse)
        own = replace(
            options,
            listen=str(Listen(listen.host, listen.port + step * number if listen.port else 0)),
            admin=str(Listen(admin.host, admin.port + step * number if admin.port else 0)),
        )
        made.append(_plan(own, folder))
    others = tuple(edge.admin_url for edge in made[1:])
    made[0] = replace(made[0], other_admin_urls=others)
    return made


def default_threads(cores: int) -> int:
    """HAProxy threads where the file names none: half the cores, since router and replicas run here too, and at most 4,
    which forward over 100,000 tokens a second. Each further one splits lookups into smaller batches."""
    return max(1, min(4, cores // 2))


def _body_window(settings: Settings) -> dict[str, int]:
    """Body window of HAProxy, in bytes: as much as the configured policy uses."""
    policies = build_policy_set(settings.policy)
    policies.close()
    return {"body_window_bytes": body_window(policies.needs)}
