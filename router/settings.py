"""Settings of a router: the only reader of configuration file and environment.

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
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from pointsman.contract.config import decode, join, parse_value, read_mapping, source_of
from pointsman.contract.effective import leaf_sources
from pointsman.contract.registration import HEALTH_PATH_PATTERN, ModelName, Role
from pointsman.haproxy.config import BACKEND
from pointsman.haproxy.server_options import ServerOptions
from pointsman.policies.errors import PolicyConfigError, PolicyError
from pointsman.policies.lib.pair import PairConfig
from pointsman.policies.registry import build_policy_set
from pointsman.router.errors import SettingsError
from pointsman.router.outliers.failure_accrual import OutlierConfig
from pointsman.router.process.listen import Listen, NearListen, Port
from pointsman.router.process.store_url import check_url, without_password
from pointsman.router.process.tracing_settings import EXTRA, TracingSettings, has_exporter
from pointsman.router.tenancy.usage_settings import UsageSettings

ENV_PREFIX = "POINTSMAN_"

DEFAULT_POLICY: Mapping[str, Any] = {"policy": "kv_cost"}
"""Conversations stay where their KV is, with session ids or without, and leave for less loaded replicas when that is
worth it."""

Positive = Annotated[float, msgspec.Meta(gt=0)]


class AdminSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The admin API, health checks and metrics."""

    host: str = "127.0.0.1"
    """IP address or host name of the admin API; beyond loopback a `token` or a `tokens_file` is required."""
    port: Port = 8001
    """TCP port of the admin API; 0 lets the system pick one."""
    token: str = ""
    """Bearer token for `/v1` with every role. Beyond loopback this or `tokens_file` is mandatory. `/metrics`, `/livez`,
    `/readyz` and `/openapi.json` never require a token."""
    tokens_file: str = ""
    """File with named tokens for `/v1`, each with its roles and its SHA-256
    ([who may use the admin API](how-to-deploy.md#who-may-use-the-admin-api)). A change of the file takes effect within
    a second. Empty: `token` is the only one."""
    tls_cert: str = ""
    """PEM file with the certificate chain of the admin API and of the feed, which then speak TLS alone. A renewed
    certificate takes effect within a second. Empty: plain HTTP."""
    tls_key: str = ""
    """PEM file with the key of `tls_cert`. Empty: the key stands in the same file."""
    hosts: list[str] = []
    """Values of the `Host` header that are accepted besides loopback while no token is set, such as the name of a
    reverse proxy on this machine. Any other `Host` is refused with 403, because a web page can make its own name
    resolve to this machine."""
    engine_networks: list[str] = []
    """Networks that replicas may be in, such as `10.0.0.0/8`; a replica or fleet outside them is refused with 422.
    Empty: every network, except link-local addresses, where clouds serve credentials (169.254.169.254)."""
    max_body_bytes: Annotated[int, msgspec.Meta(ge=1024)] = 262_144
    """Largest request body, in bytes. Engine event messages, fleet leases and requests to explain have a limit of their
    own, 8 MiB."""
    feed_port: Port = 0
    """TCP port where engines keep a connection open to report KV events, on the same host and with the same token.
    Engines learn the port from the admin API and use HTTP where they cannot reach it. 0 lets the system pick one."""

    @property
    def listen(self) -> Listen:
        return Listen(self.host, self.port)

    @property
    def scheme(self) -> str:
        """`https` with a certificate, else `http`."""
        return "https" if self.tls_cert else "http"


class EdgeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The HAProxy that this router controls."""

    admin_socket: str = ""
    """Path of HAProxy's admin socket. Empty: no HAProxy is attached, and every registered replica counts as healthy."""
    master_socket: str = ""
    """Path of HAProxy's master socket, which leads to the old workers that finish their streams after a reload. Empty:
    the end of those streams is never reported, and their reservations stay until `limits.reservation_ttl_s`."""
    keys_file: str = ""
    """Path, as the router sees it, of the file that HAProxy's `keys_map` names. The router keeps the API keys in it, so
    that an HAProxy that starts knows them at once. Empty: HAProxy answers 503 from its start until the router has told
    it the keys."""
    backend: str = BACKEND
    """Name of the HAProxy backend that contains the replicas."""
    server_options: ServerOptions = ServerOptions()
    """Health-check and connection options of servers added at run time; must equal those in HAProxy's configuration
    file."""
    interval_s: Positive = 0.5
    """Interval between two comparisons of HAProxy's servers with the registry, in seconds. A change of the registry
    triggers a comparison at once."""


class LimitSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Upper bounds of the router's memory."""

    max_replicas: Annotated[int, msgspec.Meta(ge=1)] = 4096
    """Replicas that may be registered at once; one more is refused with 507."""
    max_sessions: Annotated[int, msgspec.Meta(ge=1)] = 200_000
    """Session pins in memory; beyond that the pin used longest ago is dropped."""
    max_reservations: Annotated[int, msgspec.Meta(ge=1)] = 262_144
    """Requests in flight, and requests that ended within the last 5 s; beyond that the oldest is dropped."""
    reservation_ttl_s: Positive = 3600.0
    """Age, in seconds, at which a request counts as over although no end-of-request line arrived."""
    max_held: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 1024
    """Requests that wait at the edge at once; beyond that the lowest in the order is refused with 429. Each keeps two
    connections of HAProxy open."""
    max_held_mb: Annotated[int, msgspec.Meta(ge=1, le=65_536)] = 256
    """Memory of HAProxy for the bodies of requests that wait, in MiB, at most 128 KiB each; beyond that as above."""
    max_prefix_keys: Annotated[int, msgspec.Meta(ge=1)] = 1_000_000
    """Prefix keys in the index. A replica with 500,000 tokens of KV has about 1,000 keys."""
    max_conversations: Annotated[int, msgspec.Meta(ge=1)] = 200_000
    """Conversations whose KV is accounted for; beyond that the one active longest ago is dropped."""
    conversation_ttl_s: Positive = 120.0
    """Idle time, in seconds, after which a conversation is over. The idle timeout that is learned from traffic never
    exceeds this value."""


class SharedSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """State that this edge shares with other edges; see [how to share state](how-to-share-state.md)."""

    url: str = ""
    """Redis or Valkey server that edges share state through: `redis://[[USER]:PASSWORD@]HOST[:PORT][/DB]`, `rediss://`
    with TLS, `unix://PATH`, `redis+sentinel://[[USER]:PASSWORD@]HOST:PORT,.../MASTER`, `redis+cluster://`. Empty: this
    edge shares nothing."""
    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] = "default"
    """Name of the group of edges. Edges with the same name share state; groups with different names can use one Redis
    server."""
    edge: Annotated[str, msgspec.Meta(max_length=64)] = ""
    """Display name of this edge. Empty: its host name and admin port."""
    admin_url: Annotated[str, msgspec.Meta(pattern=r"^(|https?://[^/\s]+/?)$", max_length=256)] = ""
    """Base URL at which engines and people reach this edge's admin API, `http://HOST:PORT`. Engines that registered at
    another edge report here too. Empty: the host and port of `admin`, by the host's name where that listens everywhere.
    """
    tls_ca: str = ""
    """File with the CA certificates that the Redis connection trusts. Empty: the system's certificates."""
    flush_ms: Annotated[float, msgspec.Meta(ge=1, le=1000)] = 5.0
    """Batching interval for updates sent to Redis, in milliseconds."""
    stream_mb: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 16
    """Largest size of this edge's stream in Redis, in MiB. An edge that was disconnected for longer than the stream
    reaches back gets the missing state within two rounds in which all state is repeated."""


class StaticReplica(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Plain endpoints that are always registered."""

    id: str
    """Replica id, unique on this edge."""
    url: str
    """Base URL of the endpoint, `http://HOST:PORT`."""
    model: str = ""
    """Model name that the endpoint serves. Empty: the names in the endpoint's `/v1/models`."""
    adapters: list[ModelName] = []
    """LoRA adapters that the endpoint serves in addition to those in its `/v1/models`."""
    health_path: Annotated[str, msgspec.Meta(pattern=HEALTH_PATH_PATTERN)] = ""
    """Path of HAProxy's health check; `/v1/models` works for most servers without `/health`. Empty:
    `server_options.health_path`."""
    role: Role = Role.BOTH
    """Role of the replica: `both`, `prefill` (computes prompts for others) or `decode` (may have its prompts
    computed)."""


class ScrapeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Polling of endpoints that send no events: load from `/metrics`, model names from `/v1/models`."""

    enabled: bool = True
    """Whether endpoints that send no events are polled."""
    interval_s: Positive = 0.5
    """Interval between two reads of `/metrics` of an endpoint that has work, in seconds."""
    idle_interval_s: Positive = 5.0
    """Interval between two reads of `/metrics` of an endpoint that is idle or failed to answer the last read, in
    seconds."""
    models_interval_s: Positive = 30.0
    """Interval between two reads of `/v1/models` of a replica, in seconds. A replica that was registered without a
    model name is read at once."""
    timeout_s: Positive = 1.0
    """Time limit of one read, in seconds, from connecting to the end of the answer."""
    max_per_s: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 50
    """Reads per second over all endpoints; each costs the router 0.2 to 0.4 ms of CPU. Reads beyond the limit are
    delayed."""


class LogSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Logging to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest severity that is logged."""
    format: Literal["auto", "json", "console"] = "auto"
    """Log format: `json`, `console` (for people), or `auto`: `console` on a terminal, else `json`."""


class DecisionLogSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Records of the latest decisions, which `GET /v1/decisions` shows, and the access log."""

    max_records: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 2048
    """Decisions in memory; beyond that the oldest is dropped. 0: none are kept, and policies cannot be tried on past
    decisions."""
    max_mb: Annotated[int, msgspec.Meta(ge=1, le=16_384)] = 16
    """Memory of all records together, in MiB. A record takes 3 to 8 KiB, by the length of the prompt and the size of
    the fleet."""
    hash_key: Annotated[str, msgspec.Meta(max_length=64)] = ""
    """Secret key of the hashes that stand for session and tenant in records and in the access log. Edges with equal
    keys show equal hashes. Empty: sessions and tenants are shown as they are."""
    access_log: Annotated[str, msgspec.Meta(max_length=4096)] = ""
    """File that gets one JSON line for each request when it ends; `-` for standard output. A file that was moved away
    is opened anew. Empty: no access log."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole settings tree of a router."""

    spop: NearListen = NearListen(port=9101)
    """Address where HAProxy's SPOE lookups arrive."""
    lookup: NearListen = NearListen(port=9102)
    """Address where lookups over HTTP arrive: those of HAProxy's Lua mode, held requests, and `GET /v1/models`."""
    ring: NearListen = NearListen(port=9103)
    """Address where HAProxy's end-of-request lines arrive."""
    admin: AdminSettings = AdminSettings()
    edge: EdgeSettings = EdgeSettings()
    limits: LimitSettings = LimitSettings()
    scrape: ScrapeSettings = ScrapeSettings()
    shared: SharedSettings = SharedSettings()
    decisions: DecisionLogSettings = DecisionLogSettings()
    usage: UsageSettings = UsageSettings()
    tracing: TracingSettings = TracingSettings()
    log: LogSettings = LogSettings()
    policy: dict[str, Any] = msgspec.field(default_factory=lambda: dict(DEFAULT_POLICY))
    """Policy that the router starts with; `PUT /v1/policy` changes it at run time. See
    [policies](policies.md)."""
    pair: PairConfig = PairConfig()
    """Conditions under which a prefill replica computes the prompt of a decode replica."""
    silence_s: dict[ModelName, Annotated[float, msgspec.Meta(ge=0.1, le=86_400)]] = {}
    """Idle timeout of replicas by model name, in seconds: the longest pause before the first byte of an answer and
    between two tokens. A request whose replica pauses for longer ends, with 504 if its answer had not begun. Models
    without an entry use HAProxy's `timeouts.server_s`."""
    outliers: OutlierConfig = OutlierConfig()
    """Conditions under which a replica gets fewer requests, or none, because of its answers."""
    override_header: bool = False
    """Whether the request header `x-pointsman-policy: NAME` may select another policy for one request."""
    isolate_tenants: bool = False
    """Whether each tenant (API key) has cached prefixes and sessions of its own. Prefix keys and session ids are kept
    apart by tenant, and Pointsman's replicas salt their KV with the tenant, so that response times reveal nothing about
    other tenants' prompts."""
    replicas: list[StaticReplica] = []
    """Plain endpoints that are always registered."""
    state_file: str = ""
    """File that keeps registrations and the live policy across restarts; session pins are kept in a second file with
    the suffix `.pins`. Empty: nothing is kept."""
    documents_file: str = ""
    """SQLite file that keeps API keys, tenants and aliases across restarts, on the disk before the call that changes
    one is answered. Empty: they are kept in memory, and in the store that edges share."""
    seed: int | None = None
    """Seed of the policies' random numbers. None: drawn from the system."""


class LoadedSettings(NamedTuple):
    """Settings, and where they come from."""

    settings: Settings
    sources: Mapping[str, str]
    """Source of each value that was given, by dotted key; the others have their defaults."""


def load_settings(
    path: Path | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Settings:
    """The settings alone of `read_settings`, with one set of overrides: flags of the command line."""
    return read_settings(path, environment=environment, overrides={"command line": overrides or {}}).settings


def read_settings(
    path: Path | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    file_sources: Mapping[str, str] | None = None,
) -> LoadedSettings:
    """Reads, merges, decodes and checks. Raises SettingsError.

    overrides: by source, trees of the same shape, the later the stronger; absent (None) leaves are not given.
    file_sources: where the values of the file come from, by dotted key, if the file is a copy that a program wrote.
    """
    tree: dict[str, Any] = {}
    sources: dict[str, str] = {}
    if path is not None:
        _merge(tree, read_mapping(path, str(path), error=SettingsError), sources, str(path))
        sources |= file_sources or {}
    for name, value in sorted((os.environ if environment is None else environment).items()):
        if name.startswith(ENV_PREFIX):
            keys = name[len(ENV_PREFIX) :].lower().split("__")
            if keys[0] in Settings.__struct_fields__:
                source = f"environment variable {name}"
                _merge(tree, _nest(keys, parse_value(value, source, error=SettingsError)), sources, source)
    for source, more in (overrides or {}).items():
        _merge(tree, _without_none(more), sources, source)
    settings = decode(tree, Settings, source=sources, error=SettingsError, strict=False)
    try:
        _check(settings)
    except SettingsError as error:
        source = error.source or source_of(error.key, sources)
        raise SettingsError(error.key, error.value, error.expected, error.problem, source) from error.__cause__
    return LoadedSettings(settings, leaf_sources({**tree, **({"policy": ""} if "policy" in tree else {})}, sources))


def _check(settings: Settings) -> None:
    admin = settings.admin
    if not (admin.listen.is_loopback or admin.token or admin.tokens_file):
        raise SettingsError(
            "admin.token",
            admin.token,
            f"a bearer token, or admin.tokens_file, where admin.host, {admin.host!r}, is not loopback",
        )
    if admin.tls_key and not admin.tls_cert:
        raise SettingsError("admin.tls_key", admin.tls_key, "a key of a certificate in admin.tls_cert")
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
    if settings.tracing.endpoint:
        if not settings.decisions.max_records:
            raise SettingsError("decisions.max_records", 0, "1 or more where tracing.endpoint is set")
        if not has_exporter():
            raise SettingsError("tracing.endpoint", settings.tracing.endpoint, EXTRA)
    try:
        build_policy_set(settings.policy).close()
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
