"""One edge as values -> the text of its HAProxy configuration. Pure: no file is written, no socket opened.

`render(EdgeConfig(...))` gives haproxy.cfg and the files it refers to by relative path, to be put into one folder under
`FILE_NAMES`.

What the configuration promises (docs: configuration.txt of HAProxy 2.8; valid up to 3.4):

- Any method, path, query, header value and body passes through unchanged, except that inbound `x-pointsman-*` headers
  are removed and `x-request-id` is the edge's own. A client's well-formed `x-request-id` comes back to it, with the
  edge's own beside it (`x-pointsman-request-id`) where decisions are shown.
- A POST to a generation path asks the router, and where several models are served any other POST too; everything else
  is spread evenly over the ready servers.
- The router's `first`, then its `second`, serves: also when the first turns out to be dead. Without an answer HAProxy
  chooses both: session key, else prompt head, hashed with bounded load onto the healthy servers of the model that the
  request names; it says `x-pointsman-reason: fail-open`. Where no server of that model is up: 503. Where several models
  are served and nothing tells which one the request wants: 400.
- Who is asked for API keys is not told which replica served, nor why, unless that is asked for (`expose_decision`).
- `GET /v1/models` is answered by the router for the whole fleet, by any replica while the router is away.
- One JSON line per finished request goes to the router's ring address.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import NamedTuple

import jinja2

from pointsman.haproxy.answers import (
    ERROR_BODIES,
    FORBIDDEN_MODEL,
    KEY_REFUSALS,
    OVER_LIMIT,
    RATE_HEADERS,
    REFUSALS,
    UNKNOWN_MODEL,
    no_model,
)
from pointsman.haproxy.config import (
    GROUPS_MAP,
    HEAD_ROOM_BYTES,
    HEALTH_MAP,
    KEYS_VARIABLE,
    MAPS,
    PLACES_TABLE,
    PLACES_VARIABLE,
    REWRITE_ROOM_BYTES,
    RING,
    RING_BACKEND,
    WRONG_KEYS_TABLE,
    EdgeConfig,
    server_ids,
)
from pointsman.haproxy.descriptors import FD_HARD_LIMIT, connections_within, reserved_pairs
from pointsman.haproxy.lookup_rules import RULES_VARIABLE, LookupRules

HASH_HEAD_BYTES = 2048
"""Bytes of the body that stand for the prompt when HAProxy chooses alone and there is no session key."""
UNKNOWN_SCOPE = "f" * 16
"""Scope of the prefixes of a tenant that is kept apart while no router tells it: no request is looked up by it."""
WRONG_KEYS_PER_MINUTE = 60
"""Requests without a known API key, from one address in a minute, that are each told to the router; those beyond are
answered 429 and told to nobody. A known key is never refused for what others send from its address."""
REPLAY_MAX_BUFFER_BYTES = 131072
"""The largest buffers whose copy costs HAProxy less than a quarter of what the request does."""


class Rendered(NamedTuple):
    """The files of one edge, in the order of `FILE_NAMES`. They belong into one folder."""

    haproxy_cfg: str
    spoe_cfg: str
    lua: str
    health_map: str
    # Which server serves what is the router's to say, at run time.
    groups_map: str = ""
    models_map: str = ""
    aliases_map: str = ""


def _log_format(first_token: bool, has_tenants: bool) -> str:
    """One JSON object a line. No field can hold a quote: numbers, server names, and words of fixed charsets; a tenant's
    name, which may be any, is escaped."""
    ttft = "%[var(txn.pm.ttft)]" if first_token else "-"
    fields = (
        '"ev":"end","id":"%ID","pid":%pid,"srv":"%s"',
        '"first":"%[var(txn.pm.first)]","reason":"%[var(txn.pm.reason)]"',
        f'"st":%ST,"tw":%Tw,"tc":%Tc,"tr":%Tr,"ta":%Ta,"ttft":"{ttft}"',
        '"bytes":%B,"ts":"%ts","rc":"%rc","routed":"%[var(txn.pm.routed)]"',
        '"cid":"%[var(txn.pm.cid)]","sse":"%[var(txn.pm.sse)]"',
        *(('"tenant":"%[var(txn.pm.tenant),json(utf8s)]","key":"%[var(txn.pm.key)]"',) if has_tenants else ()),
    )
    return "{" + ",".join(fields) + "}"


def _path_tests(allowed: tuple[str, ...]) -> list[str]:
    exact = [path for path in allowed if not path.endswith("*")]
    below = [path.removesuffix("*") for path in allowed if path.endswith("*")]
    tests = []
    if exact:
        tests.append(f"path {' '.join(exact)}")
    if below:
        tests.append(f"path_beg {' '.join(below)}")
    return tests


@cache
def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("pointsman.haproxy"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )


def render(edge: EdgeConfig, open_files: int = FD_HARD_LIMIT) -> Rendered:
    """The configuration of `edge`: the same text for equal values, nothing read from outside.

    `open_files` is the limit of open files of the process that will run HAProxy. Raises ConfigError when it is too low.
    """
    servers = len(edge.servers)
    bufsize = edge.body_window_bytes + HEAD_ROOM_BYTES
    has_tenants = bool(edge.api_keys_map or edge.keys_map)
    values: dict[str, object] = {key: getattr(edge, key) for key in edge.__struct_fields__}
    values |= {
        "allowed_path_tests": _path_tests(edge.allowed_paths),
        "bufsize": bufsize,
        "connections": edge.maxconn or connections_within(open_files, servers),
        "fd_hard_limit": FD_HARD_LIMIT,
        # HAProxy allocates descriptors for just so many connections: what else needs some is to be counted in.
        "maxconn": edge.maxconn and edge.maxconn + reserved_pairs(2 * edge.maxconn, servers),
        "error_bodies": ERROR_BODIES,
        "groups_map": GROUPS_MAP,
        "health_map": HEALTH_MAP,
        "maps": MAPS,
        "hash_head_bytes": HASH_HEAD_BYTES,
        # Buffers beyond a thread's cache are mapped and unmapped for every chunk that passes: room for 256 of them, in
        # 16 MiB, and for 32 of the largest.
        "hot_size": max(32 * bufsize, min(256 * bufsize, 16 << 20)),
        "exposes_decision": edge.expose_decision == "always" or (edge.expose_decision == "auto" and not has_tenants),
        "has_tenants": has_tenants,
        "unknown_scope": UNKNOWN_SCOPE,
        "keys_variable": KEYS_VARIABLE,
        "wrong_keys_table": WRONG_KEYS_TABLE,
        "wrong_keys_per_minute": WRONG_KEYS_PER_MINUTE,
        "key_refusals": KEY_REFUSALS,
        "forbidden_model": FORBIDDEN_MODEL,
        "over_limit": OVER_LIMIT,
        "rate_headers": RATE_HEADERS,
        "places_table": PLACES_TABLE,
        "places_variable": PLACES_VARIABLE,
        "log_format": _log_format(edge.first_token, has_tenants),
        "no_model": no_model(edge.model_header),
        "refusals": REFUSALS,
        "rewrite_room": REWRITE_ROOM_BYTES,
        "ring": RING,
        "ring_backend": RING_BACKEND,
        "unknown_model": UNKNOWN_MODEL,
        "replay": bufsize <= REPLAY_MAX_BUFFER_BYTES if edge.replay is None else edge.replay,
        "replay_requests_max": max(1, (edge.replay_memory_mb << 20) // bufsize),
        "rules": LookupRules.of(edge).stated(),
        "rules_variable": RULES_VARIABLE,
        "server_ids": server_ids(server.name for server in edge.servers),
        "server_keywords": edge.server_options.keywords(len(edge.servers), before=0),
    }
    environment = _templates()
    return Rendered(
        haproxy_cfg=environment.get_template("haproxy.cfg.j2").render(values),
        spoe_cfg=environment.get_template("spoe.cfg.j2").render(values),
        lua=files("pointsman.haproxy").joinpath("lua/pointsman.lua").read_text(encoding="utf-8"),
        health_map="".join(f"{server.name} {server.health_path}\n" for server in edge.servers if server.health_path),
    )
