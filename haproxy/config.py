"""Configuration of one edge's HAProxy, as values; `pointsman.haproxy.render` turns them into text.

Every value is checked when it is made, against a strict charset, so no value can add a line or a word to the
configuration. A value that does not fit raises `ConfigError`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Literal

import msgspec

from pointsman.haproxy.charset import (
    ACCOUNT,
    HEADER,
    HEADER_EXPECTED,
    MODEL,
    NAME,
    PATH,
    check_address,
    check_file,
    check_host,
    check_range,
    check_socket,
    check_text,
    require,
)
from pointsman.haproxy.errors import ConfigError
from pointsman.haproxy.server_options import ServerOptions

FRONTEND = "edge"
BACKEND = "fleet"
"""Names of the proxy clients come in through, and of the one the replicas are in."""
RING = "events"
"""Name of the log ring that keeps end-of-request lines for the router."""

RING_BACKEND = "pm-ring"
"""Name of the backend whose server `line` has a line written to the ring whenever its state is changed."""
FILE_NAMES = ("haproxy.cfg", "spoe.cfg", "pointsman.lua", "health.map", "groups.map", "models.map", "aliases.map")
"""Names of one edge's files; the first refers to the others."""
HEALTH_MAP = FILE_NAMES[3]
"""Server name -> path of its health check, for those that differ from `ServerOptions.health_path`."""
GROUPS_MAP = FILE_NAMES[4]
"""Server name -> token of its group, which is all servers that serve the same names; empty while all are one group."""
MODELS_MAP = FILE_NAMES[5]
"""xxh64 of a name that requests may ask for, 16 hexadecimal digits -> the groups that serve it, with commas between."""
ALIASES_MAP = FILE_NAMES[6]
"""xxh64 of an alias, 16 hexadecimal digits -> model that serves it while the router is away; `*` -> 1 where there are
any."""
MAPS = (HEALTH_MAP, GROUPS_MAP, MODELS_MAP, ALIASES_MAP)
"""Maps that follow the servers at run time, in the order in which the reconciler makes their entries."""
KEYS_VARIABLE = "proc.pm.keys"
"""1 once the router has told this HAProxy the API keys: until then a key that it does not know may be a good one."""
WRONG_KEYS_TABLE = "pm-wrong-keys"
"""Stick table of the addresses that sent requests without a known API key."""
PLACES_TABLE = "pm-places"
PLACES_VARIABLE = "proc.pm.places"
"""Stick table of server ids by name, kept at run time for large fleets, and whether it holds (1) or not (0)."""
MAX_BODY_WINDOW_BYTES = 1 << 20
PREFIX_WINDOW_BYTES = 114688
"""A window that lets prefix keys name the first 28,000 tokens or so of a prompt, in buffers of 128 KiB: the largest
whose copy for `replay` costs less than the rest of the lookup. Agents with contexts of 100 KiB and more are placed as
well by it as by a window without end, with session ids or without; by 16 KiB they are not."""
MAX_BODY_BYTES = 64 << 20
"""A million tokens of text are 4 MiB; the largest APIs take 32 to 50 MB, images included."""
SMALL_WINDOW_BYTES = 16384
"""Enough for policies that look at no prompt."""
HEAD_ROOM_BYTES = 16384
"""Of each buffer, what is kept for request head and header rewriting; HAProxy's own default buffer size."""
REWRITE_ROOM_BYTES = 4096
"""Of that, what is kept for header rewriting alone (`tune.maxrewrite`)."""

Lookup = Literal["spoe", "lua"]

OWN_HEADERS = "x-pointsman-"
"""Headers that begin so are removed from what clients send."""


def join_host_port(host: str, port: int) -> str:
    """`host:port` as HAProxy reads it; an IPv6 address goes into brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Bind(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One listening address. Plain addresses speak HTTP/1.1 and HTTP/2 with prior knowledge; with `certificate` (PEM
    file: chain and key) TLS with `alpn h2,http/1.1`."""

    host: str
    """IP address or host name to listen on; `*` for all addresses."""
    port: int
    """TCP port to listen on."""
    certificate: str = ""
    """PEM file with certificate chain and key, for TLS with HTTP/2 and HTTP/1.1. Empty: no TLS."""

    def __post_init__(self) -> None:
        check_host("host", self.host)
        check_range("port", self.port, 1, 65535)
        if self.certificate:
            check_file("certificate", self.certificate)

    @property
    def address(self) -> str:
        return join_host_port(self.host, self.port)


class Server(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A replica as HAProxy sees it: its name is the replica id."""

    name: str
    """Server name in HAProxy, which is the replica id."""
    host: str
    """IP address of the replica; HAProxy does not resolve server names."""
    port: int
    """TCP port of the replica."""
    health_path: str = ""
    """Path of the replica's health check. Empty: `server_options.health_path`."""

    def __post_init__(self) -> None:
        check_text(NAME, "name", self.name, "1 to 64 characters out of letters, digits and _ . : -")
        if self.health_path:
            check_text(PATH, "health_path", self.health_path, "a path without spaces or quotes")
        try:
            ip_address(self.host)
        except ValueError:
            # management.txt, "add server": servers added at run time are never resolved.
            raise ConfigError("host", self.host, "an IP address: HAProxy does not resolve server names") from None
        check_range("port", self.port, 1, 65535)

    @property
    def address(self) -> str:
        return join_host_port(self.host, self.port)


class Timeouts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """HAProxy's timeouts. Timeouts of clients and replicas limit a *pause*, never the length of a stream."""

    connect_ms: int = 500
    """Time limit for connecting to a replica, in milliseconds."""
    client_s: int = 3600
    """Longest pause of a client that sends a request or reads an answer, in seconds."""
    server_s: int = 600
    """Longest pause of a replica, in seconds: before the first byte of an answer (for answers that are not streamed,
    the whole generation) and between two tokens. The default equals that of OpenAI's clients. The router's `silence_s`
    sets other values for single models."""
    queue_s: int = 30
    """Longest wait in HAProxy's queue of a replica that has `server_options.maxconn` requests, in seconds; then 503."""
    http_request_s: int = 10
    """Time limit for a complete request head, in seconds."""
    http_keep_alive_s: int = 75
    """Time, in seconds, for which an idle client connection stays open."""
    body_s: int = 10
    """Time limit for the part of a request body that the lookup needs, in seconds. After that the lookup uses the part
    that arrived."""
    processing_ms: int = 50
    """Time limit of one lookup, in milliseconds; a router that takes longer is skipped and HAProxy fails open."""
    router_check_ms: int = 250
    """Time limit of one health check of the router, in milliseconds. After two failed checks HAProxy skips lookups
    until a check passes."""

    def __post_init__(self) -> None:
        for key in self.__struct_fields__:
            check_range(key, getattr(self, key), 1, 86_400_000 if key.endswith("_ms") else 2_000_000)


DEFAULT_SESSION_HEADERS = (
    "x-session-id",
    "x-claude-code-session-id",
    "session-id",
    "session_id",
    "x-session-affinity",
    "thread-id",
    "x-conversation-id",
    "x-correlation-id",
)
DEFAULT_GENERATION_PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/inference/v1/generate",
)
DEFAULT_MODEL_HEADER = "x-model"
DEFAULT_PRIORITY_HEADER = "x-priority"


SEVERAL_MODELS = 1 | 8
"""`body_needs` that read the model of every POST: right for any fleet."""


class EdgeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that makes one edge's HAProxy."""

    binds: tuple[Bind, ...]
    """Addresses that clients connect to. Plain addresses accept HTTP/1.1 and HTTP/2 with prior knowledge; with
    `certificate`, TLS with `alpn h2,http/1.1`."""
    ring_address: str
    """Address of the router's `ring` listener, `HOST:PORT` or `unix@PATH`, to which HAProxy writes end-of-request
    lines."""
    admin_socket: str
    """Path of the Unix socket of HAProxy's Runtime API, created with mode 0600."""
    lookup: Lookup = "spoe"
    """Transport of lookups: `spoe`, or `lua` over HTTP for sites without SPOE."""
    spop_address: str = ""
    """Address of the router's `spop` listener, `HOST:PORT` or `unix@PATH`; required with `lookup: spoe`."""
    lookup_address: str = ""
    """Address of the router's `lookup` listener, `IP:PORT` or `unix@PATH`; required with `lookup: lua`, and with either
    transport for holding requests (`admission.wait_s`). Empty: requests that would be held are refused at once."""
    models_address: str = ""
    """Address of the router's `lookup` listener, which answers `GET /v1/models` for the whole fleet. Empty: one
    replica's own answer reaches the client."""
    master_socket: str = ""
    """Path of the Unix socket of HAProxy's master process, given to HAProxy on its command line (`-S`)."""
    ops: Bind | None = None
    """Address that serves HAProxy's own `/metrics` (Prometheus) and `/readyz`; keep it on loopback."""
    servers: tuple[Server, ...] = ()
    """Replicas known when HAProxy starts, so that requests are served from the first one after a restart."""
    server_options: ServerOptions = ServerOptions()
    """Health checks and connections of every replica; the same for servers in the file and for those added at run
    time."""
    timeouts: Timeouts = Timeouts()
    """HAProxy's timeouts. Timeouts of clients and replicas limit a *pause*, never the length of a stream."""
    session_headers: tuple[str, ...] = DEFAULT_SESSION_HEADERS
    """Request headers that may carry the session key, in order of precedence; the first one that is present and not
    empty counts."""
    generation_paths: tuple[str, ...] = DEFAULT_GENERATION_PATHS
    """Exact paths whose POST requests generate tokens; the policy places these. Every other POST (embeddings, scores,
    transcriptions, tokenize) goes to the least loaded replica of its `model` where several models are served. With one
    model, and for every other method, replicas take turns."""
    model_header: str = DEFAULT_MODEL_HEADER
    """Request header in which a client may name the model. The header counts where the body does not show `model`:
    because the field is missing, or lies beyond `body_window_bytes`. The header is passed on to the replica. Empty:
    none."""
    priority_header: str = ""
    """Request header in which a client may name the priority class of a request: `batch`, `low`, `normal`, `high` or
    `critical`. A class above the `max_priority` of its tenant, or an unknown one, counts as none. Empty: none;
    `pointsman up --require-keys` reads `x-priority`."""
    deadline_header: str = ""
    """Request header in which a client may say within how many milliseconds a request has to be placed; a request that
    waits at the edge for longer is refused. Empty: none."""
    version_header: str = ""
    """Request header in which a tester may name the version (the model) that serves a request for an alias, where that
    alias allows it (`override`), for example `x-model-version`. The header is passed on to the replica. Empty: none."""
    path_models: dict[str, str] = {}
    """Model by exact path, for POST requests in which neither the body nor the header names one:
    `{/v1/audio/transcriptions: whisper}`."""
    allowed_paths: tuple[str, ...] = ()
    """Paths that clients may use: exact paths, or everything below a path written as `/v1/*`. A path with `..` in it,
    however encoded, never matches. Empty: all paths."""
    api_keys_map: str = ""
    """File with API keys, lines of `<sha256 of the key, hex, lower case> <tenant>`. Empty: no API key is required."""
    keys_map: str = ""
    """File of the API keys that are made at the router (`POST /v1/keys`), by their hashes, and whether they are
    required: the router keeps HAProxy's copy up to date, and the file too where its `edge.keys_file` names it. Empty:
    no such key is required. With `api_keys_map`, a key of either is taken."""
    isolate_tenants: bool = False
    """Whether fail-open routing keeps the sessions and prompts of tenants (API keys) apart; must equal the router's
    `isolate_tenants`."""
    expose_decision: Literal["auto", "always", "never"] = "auto"
    """Whether answers carry `x-pointsman-replica` and `x-pointsman-reason`. Both headers reveal the fleet's layout, and
    whether the prompt was cached. `auto`: only while no API keys are required."""
    policy_override: bool = False
    """Whether clients may send `x-pointsman-policy`; must equal the router's `override_header`."""
    tracing: bool = False
    """Whether the router traces requests: HAProxy hands `traceparent` over with lookups, and sends the one that the
    router answers with to the replica. Goes with the router's `tracing.endpoint`; without it, HAProxy passes
    `traceparent` on unchanged."""
    first_token: bool = False
    """Whether a Lua filter reports the time of the first token of streamed answers. Only endpoints that report nothing
    themselves need it. HAProxy attaches a filter to every request: short answers of all endpoints, streamed or not,
    cost it 40 to 50 % more CPU time."""
    body_needs: int = SEVERAL_MODELS
    """Parts of the body that HAProxy sends with a lookup until the router sets them, as a sum of 1 (fields), 2 (prefix
    keys), 4 (fields, only without a session header) and 8 (the model of every POST)."""
    body_window_bytes: int = PREFIX_WINDOW_BYTES
    """Bytes at the start of a body that HAProxy inspects. Prefix keys reach as far, and larger bodies cannot be sent
    again (`replay`). Each buffer has this size plus 16 KiB; unused parts take no memory. 16384 suffices for policies
    that use no prefix keys. The table of prefix keys ends at 320 KiB."""
    replay: bool | None = None
    """Whether a request that a replica dropped without an answer is sent to another one. HAProxy then keeps a copy of
    the buffer until the answer *ends*, at about 0.3 us and 1 KiB per request for each KiB of buffer. None: yes for
    buffers up to 128 KiB. A refused connection is always tried on another replica."""
    replay_memory_mb: int = 160
    """Memory for the copies of `replay`, in MiB. Requests beyond it (with buffers of 128 KiB: beyond 1,280 in flight)
    have no copy and take 12 KB instead of 140; one that its replica drops without an answer is answered 502."""
    max_body_bytes: int = MAX_BODY_BYTES
    """Largest announced body, in bytes; a larger one is refused with 413. The default has room for a prompt of a
    million tokens with images. Chunked bodies announce no length and are limited by the replica. 0: no limit."""
    hash_balance_percent: int = 200
    """Load of a replica, in percent of the mean of its model, above which fail-open routing passes over it while
    another replica is below."""
    threads: int = 0
    """Threads of HAProxy. 0: one per core."""
    maxconn: int = 0
    """Concurrent client connections; more wait in the kernel's queue. Each takes two file descriptors. 0: half of the
    open-files limit where the file is rendered, less 32 and less two for each server (up to 1,024 servers added at run
    time), at most 50,000."""
    hard_stop_after_s: int = 14_400
    """Time, in seconds, after a reload at which the streams still running in the old worker are cut."""
    user: str = ""
    """Account that HAProxy changes to after binding its sockets. Empty: unchanged."""
    group: str = ""
    """Group that HAProxy changes to after binding its sockets. Empty: unchanged."""
    chroot: str = ""
    """Folder that HAProxy changes its root to. Empty: none."""

    def __post_init__(self) -> None:
        require(len(self.binds) > 0, "binds", self.binds, "at least one address")
        require(self.lookup in ("spoe", "lua"), "lookup", self.lookup, '"spoe" or "lua"')
        check_address("ring_address", self.ring_address)
        check_socket("admin_socket", self.admin_socket)
        if self.lookup == "spoe":
            check_address("spop_address", self.spop_address)
        if self.lookup == "lua" or self.lookup_address:
            check_address("lookup_address", self.lookup_address)
        if self.models_address:
            check_address("models_address", self.models_address)
        if self.master_socket:
            check_socket("master_socket", self.master_socket)
        for key in ("api_keys_map", "keys_map", "chroot"):
            if value := getattr(self, key):
                check_file(key, value)
        for key in ("user", "group"):
            if value := getattr(self, key):
                check_text(ACCOUNT, key, value, "an account name")
        for header in self.session_headers:
            check_text(HEADER, "session_headers", header, f"header names of {HEADER_EXPECTED}")
        for key in ("model_header", "priority_header", "deadline_header", "version_header"):
            if header := getattr(self, key):
                check_text(HEADER, key, header, f"a header name of {HEADER_EXPECTED}")
                expected = f"a name that does not begin with {OWN_HEADERS}, which no client may send"
                require(not header.lower().startswith(OWN_HEADERS), key, header, expected)
        for path, model in self.path_models.items():
            check_text(PATH, "path_models", path, "absolute paths without spaces or quotes")
            check_text(MODEL, "path_models", model, "model names of letters, digits and _ . : / @ + -")
        require(
            self.expose_decision in ("auto", "always", "never"),
            "expose_decision",
            self.expose_decision,
            '"auto", "always" or "never"',
        )
        require(len(self.generation_paths) > 0, "generation_paths", self.generation_paths, "at least one path")
        for path in self.generation_paths:
            check_text(PATH, "generation_paths", path, "absolute paths without spaces or quotes")
        for path in self.allowed_paths:
            check_text(PATH, "allowed_paths", path.removesuffix("*"), "absolute paths, or a prefix ending in /*")
            require("*" not in path or path.endswith("/*"), "allowed_paths", path, "an exact path or one ending in /*")
        names = [server.name for server in self.servers]
        require(len(names) == len(set(names)), "servers", names, "names that differ")
        check_range("body_needs", self.body_needs, 0, 15)
        check_range("body_window_bytes", self.body_window_bytes, 0, MAX_BODY_WINDOW_BYTES)
        check_range("replay_memory_mb", self.replay_memory_mb, 1, 1 << 20)
        check_range("max_body_bytes", self.max_body_bytes, 0, 1 << 40)
        check_range("hash_balance_percent", self.hash_balance_percent, 101, 1000)
        check_range("threads", self.threads, 0, 64)
        check_range("maxconn", self.maxconn, 0, 1_000_000)
        check_range("hard_stop_after_s", self.hard_stop_after_s, 1, 2_000_000)


def server_ids(names: Iterable[str], taken: Iterable[int] = ()) -> dict[str, int]:
    """A numeric HAProxy id per server name, none of them in `taken`.

    HAProxy places a server on its hash ring by this id (configuration.txt, `hash-type consistent`), so ids made from
    names give all edges, and an edge after a restart, the same fail-open choice. Order of `names` does not matter.
    """
    used = set(taken)
    ids: dict[str, int] = {}
    for name in sorted(names):
        candidate = zlib.crc32(name.encode()) & 0x7FFFFFFF or 1
        while candidate in used:
            candidate = candidate + 1 & 0x7FFFFFFF or 1
        used.add(candidate)
        ids[name] = candidate
    return ids
