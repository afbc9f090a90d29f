"""What a router is started with: the only reader of configuration file and environment.

Precedence, lowest first: defaults, the YAML file, environment variables, flags. An environment variable is the key's
path in capitals behind `POINTSMAN_`, with two underscores between levels: `POINTSMAN_ADMIN__TOKEN`. Everything decodes
strictly into one frozen tree; each constructor takes only its part. An error names source, key, value and expectation.

The live policy is not a restart setting: `policy` here is what the router starts with, `PUT /v1/policy` changes it.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from pointsman.contract.config import decode, join, parse_value, read_mapping
from pointsman.contract.registration import HEALTH_PATH_PATTERN, ModelName, Role
from pointsman.haproxy.config import BACKEND, ServerOptions
from pointsman.policies.errors import PolicyConfigError, PolicyError
from pointsman.policies.lib.pair import PairConfig
from pointsman.policies.registry import build_policy
from pointsman.router.edges.url import check_url, without_password
from pointsman.router.errors import SettingsError
from pointsman.router.outliers.failure_accrual import OutlierConfig

ENV_PREFIX = "POINTSMAN_"

DEFAULT_POLICY: Mapping[str, Any] = {"policy": "kv_cost"}
"""Conversations stay where their KV is, with session ids or without, and leave for less loaded replicas when that is
worth it."""

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Positive = Annotated[float, msgspec.Meta(gt=0)]


class Listen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A TCP address to listen on; port 0 lets the system pick."""

    host: str = "127.0.0.1"
    port: Port = 0

    @property
    def is_loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class NearListen(Listen, frozen=True, forbid_unknown_fields=True):
    """An address that HAProxy on the same host connects to: TCP, or a Unix socket, which costs both sides less."""

    path: str = ""
    """File of a Unix socket, made with mode 0600; when set, host and port mean nothing."""

    def __str__(self) -> str:
        return f"unix@{self.path}" if self.path else super().__str__()


class AdminSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The admin API, health and metrics."""

    host: str = "127.0.0.1"
    port: Port = 8001
    token: str = ""
    """Bearer token of `/v1`, required unless the address is loopback. `/metrics`, `/livez`, `/readyz` never ask."""
    hosts: list[str] = []
    """Names or addresses besides loopback that the `Host` header of a request may have where no token is set, such as
    that of a reverse proxy on this machine. Without a token any other `Host` is refused with 403: it is that of a web
    page which has its own name resolve to this machine."""
    engine_networks: list[str] = []
    """Networks that replicas may be in, such as `10.0.0.0/8`; a replica or fleet elsewhere is refused with 422. Empty:
    any, but for link-local addresses, where clouds serve their credentials (169.254.169.254)."""
    max_body_bytes: Annotated[int, msgspec.Meta(ge=1024)] = 262_144
    """Longest body of a request; engines' messages and fleets' leases have limits of their own, 8 MiB."""
    feed_port: Port = 0
    """Where engines keep a connection open to tell of their KV, on the same host and with the same token. They learn it
    here, and go on over HTTP where they cannot reach it; 0 lets the system pick."""

    @property
    def listen(self) -> Listen:
        return Listen(self.host, self.port)


class EdgeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The HAProxy this router steers."""

    admin_socket: str = ""
    """Path of HAProxy's admin socket. Empty: none is attached, and registered replicas count as healthy."""
    master_socket: str = ""
    """Path of HAProxy's master socket, which leads to the workers that finish their streams after a reload. Empty: the
    router learns nothing more of those streams, and their reservations stay until they expire."""
    backend: str = BACKEND
    server_options: ServerOptions = ServerOptions()
    """How servers added at run time are checked; the same values HAProxy's configuration was rendered with."""
    interval_s: Positive = 0.5
    """How often HAProxy's servers are compared with the registry; a change of the registry does not wait for it."""


class LimitSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Bounds of the router's memory."""

    max_replicas: Annotated[int, msgspec.Meta(ge=1)] = 4096
    max_sessions: Annotated[int, msgspec.Meta(ge=1)] = 200_000
    max_reservations: Annotated[int, msgspec.Meta(ge=1)] = 262_144
    """Requests in flight, and those that ended within the last 5 s. When met, the oldest is forgotten."""
    reservation_ttl_s: Positive = 3600.0
    """Seconds after which a request is taken to be over whose end HAProxy never reported."""
    max_prefix_keys: Annotated[int, msgspec.Meta(ge=1)] = 1_000_000
    """Prefix keys in the index; a replica with 500,000 tokens of KV holds some 1,000."""
    max_conversations: Annotated[int, msgspec.Meta(ge=1)] = 200_000
    """Live conversations whose KV is kept account of."""
    conversation_ttl_s: Positive = 120.0
    """A conversation silent for longer is over; how long its KV counts is learned, and never longer."""


class SharedSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What this edge shares with others: docs/how-to-share-state.md."""

    url: str = ""
    """Redis or Valkey: `redis://[[USER]:PASSWORD@]HOST[:PORT][/DB]`, `rediss://` with TLS, `unix://PATH`,
    `redis+sentinel://[[USER]:PASSWORD@]HOST:PORT,.../MASTER`, `redis+cluster://`. Empty: this edge is alone."""
    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] = "default"
    """Edges with the same name share; others in the same Redis do not meet them."""
    edge: Annotated[str, msgspec.Meta(max_length=64)] = ""
    """This edge's name for people; empty: its host and admin port."""
    tls_ca: str = ""
    """File with the certificates to trust; empty: the system's."""
    flush_ms: Annotated[float, msgspec.Meta(ge=1, le=1000)] = 5.0
    """How long what happens is gathered before it is told."""
    stream_mb: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 16
    """Of this edge's stream in Redis. An edge that was away for longer than it reaches back takes a snapshot."""


class StaticReplica(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A plain endpoint that is always registered."""

    id: str
    url: str
    model: str = ""
    """Empty: its own `/v1/models` is asked."""
    adapters: list[ModelName] = []
    """LoRA adapters it serves too, besides those its `/v1/models` names."""
    health_path: Annotated[str, msgspec.Meta(pattern=HEALTH_PATH_PATTERN)] = ""
    """Where HAProxy checks it; `/v1/models` does for most servers without `/health`. Empty: the edge's own path."""
    role: Role = Role.BOTH
    """both, prefill or decode."""


class ScrapeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How endpoints that tell nothing of themselves are asked: load from `/metrics`, names from `/v1/models`."""

    enabled: bool = True
    interval_s: Positive = 0.5
    """Between two looks at the load of an endpoint with work."""
    idle_interval_s: Positive = 5.0
    """The same without work, and after a look that failed."""
    models_interval_s: Positive = 30.0
    """Between two looks at the models and adapters of any replica; one whose model nobody named is asked at once."""
    timeout_s: Positive = 1.0
    """For one look, from the connection to the end of the answer."""
    max_per_s: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 50
    """Looks in a second, at all endpoints together; each takes the router 0.2 to 0.4 ms. Beyond, all wait their
    turn."""


class LogSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where and how the router logs: stderr, JSON unless it is a terminal."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole tree."""

    spop: NearListen = NearListen(port=9101)
    lookup: NearListen = NearListen(port=9102)
    ring: NearListen = NearListen(port=9103)
    admin: AdminSettings = AdminSettings()
    edge: EdgeSettings = EdgeSettings()
    limits: LimitSettings = LimitSettings()
    scrape: ScrapeSettings = ScrapeSettings()
    shared: SharedSettings = SharedSettings()
    log: LogSettings = LogSettings()
    policy: dict[str, Any] = msgspec.field(default_factory=lambda: dict(DEFAULT_POLICY))
    pair: PairConfig = PairConfig()
    """When decode replicas leave prompts to prefill replicas."""
    silence_s: dict[ModelName, Annotated[float, msgspec.Meta(ge=0.1, le=86_400)]] = {}
    """Longest silence of a replica, in seconds, by the model that requests name: before the first byte of an answer and
    between two tokens. A request whose replica is silent for longer ends, with 504 if its answer had not begun. Other
    models have HAProxy's `timeouts.server_s`."""
    outliers: OutlierConfig = OutlierConfig()
    """When a replica gets fewer requests, or none, because of its answers."""
    override_header: bool = False
    """Whether `x-pointsman-policy: NAME` may choose another policy for one request."""
    isolate_tenants: bool = False
    """Whether the prefixes of one tenant (API key) are of no use to another: prefix keys and session ids are kept
    apart, and replicas of ours salt their KV with the tenant, so that nobody learns from a fast answer what another
    asked."""
    replicas: list[StaticReplica] = []
    state_file: str = ""
    """Where registrations and the live policy are kept for a restart on this host, and beside it, in a file of the same
    name with `.pins` after it, sessions' pins. Empty: nowhere."""
    seed: int | None = None
    """Seed of the policies' dice; absent draws one from the system."""


def load_settings(
    path: Path | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Settings:
    """Reads, merges, decodes and checks. Raises SettingsError.

    `overrides` are flags, as a tree of the same shape; absent (None) leaves are not given.
    """
    tree: dict[str, Any] = {}
    sources: dict[str, str] = {}
    if path is not None:
        _merge(tree, read_mapping(path, str(path), error=SettingsError), sources, str(path))
    for name, value in sorted((os.environ if environment is None else environment).items()):
        if name.startswith(ENV_PREFIX):
            keys = name[len(ENV_PREFIX) :].lower().split("__")
            if keys[0] in Settings.__struct_fields__:
                source = f"environment variable {name}"
                _merge(tree, _nest(keys, parse_value(value, source, error=SettingsError)), sources, source)
    if overrides:
        _merge(tree, _without_none(overrides), sources, "command line")
    settings = decode(tree, Settings, source=sources, error=SettingsError, strict=False)
    _check(settings)
    return settings


def _check(settings: Settings) -> None:
    admin = settings.admin
    if not admin.listen.is_loopback and not admin.token:
        raise SettingsError(
            "admin.token", admin.token, f"a bearer token where admin.host, {admin.host!r}, is not loopback"
        )
    for network in admin.engine_networks:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            raise SettingsError("admin.engine_networks", network, f"networks such as 10.0.0.0/8: {error}") from None
    for host in admin.hosts:
        if not host or not set(host).isdisjoint("/ @"):
            raise SettingsError("admin.hosts", host, "a name or an address without port")
    if settings.shared.url:
        try:
            check_url(settings.shared.url)
        except ValueError as error:
            raise SettingsError(
                "shared.url", without_password(settings.shared.url), f"the address of a store ({error})"
            ) from None
    try:
        build_policy(settings.policy).close()
    except PolicyConfigError as error:
        raise SettingsError(
            join("policy", error.key), error.value, error.expected, error.problem, error.source
        ) from error
    except PolicyError as error:
        raise SettingsError("policy", settings.policy, f"a policy that loads: {error}") from error


def _merge(tree: dict[str, Any], more: Mapping[str, Any], sources: dict[str, str], source: str, at: str = "") -> None:
    for key, value in more.items():
        path = f"{at}.{key}" if at else str(key)
        # The policy is one document: half of one and half of another is neither.
        if isinstance(value, Mapping) and isinstance(tree.get(key), dict) and path != "policy":
            _merge(tree[key], value, sources, source, path)
        else:
            tree[key] = value
            sources[path] = source
            if isinstance(value, Mapping):
                for leaf in value:
                    sources[f"{path}.{leaf}"] = source


def _nest(keys: list[str], value: Any) -> dict[str, Any]:
    for key in reversed(keys):
        value = {key: value}
    return dict(value)


def _without_none(tree: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and key != "policy":
            value = _without_none(value)
            if not value:
                continue
        if value is not None:
            kept[key] = value
    return kept
