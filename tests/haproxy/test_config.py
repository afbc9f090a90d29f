"""One edge's configuration: golden text, refused values, and nothing that gets out of its place."""

from __future__ import annotations

from typing import Any

import pytest
from golden import HAPROXY, assert_golden
from hypothesis import given
from hypothesis import strategies as st

from pointsman.contract.config import decode
from pointsman.haproxy.config import Bind, EdgeConfig, Server, Timeouts, server_ids
from pointsman.haproxy.errors import ConfigError
from pointsman.haproxy.render import render
from pointsman.haproxy.server_options import ServerOptions

SMALLEST: dict[str, Any] = {
    "binds": (Bind("127.0.0.1", 8000),),
    "ring_address": "127.0.0.1:9103",
    "spop_address": "127.0.0.1:9101",
    "admin_socket": "/run/pointsman/admin.sock",
}


def make_edge(**changes: Any) -> EdgeConfig:
    return EdgeConfig(**(SMALLEST | changes))


GOLDEN_EDGES = {
    "smallest": make_edge(),
    "lua": make_edge(lookup="lua", lookup_address="127.0.0.1:9102", spop_address="", body_needs=3),
    "everything": make_edge(
        binds=(Bind("0.0.0.0", 8000), Bind("::1", 8443, "/etc/pointsman/site.pem")),
        ops=Bind("127.0.0.1", 8405),
        spop_address="unix@/run/pointsman/spop.sock",
        lookup_address="127.0.0.1:9102",
        models_address="127.0.0.1:9102",
        servers=(Server("r1", "10.0.0.7", 8000), Server("node-2.gpu:1", "fd00::7", 8001)),
        server_options=ServerOptions(maxconn=256),
        session_headers=("x-session-id",),
        generation_paths=("/v1/chat/completions",),
        allowed_paths=("/v1/*", "/health"),
        api_keys_map="/etc/pointsman/keys.map",
        keys_map="/var/lib/pointsman/keys.map",
        isolate_tenants=True,
        path_models={"/v1/audio/transcriptions": "whisper"},
        policy_override=True,
        tracing=True,
        first_token=True,
        body_window_bytes=0,
        max_body_bytes=1 << 26,
        threads=4,
        maxconn=20_000,
        user="haproxy",
        group="haproxy",
        chroot="/var/empty",
    ),
}


@pytest.mark.parametrize("name", GOLDEN_EDGES)
def test_golden_text(name: str) -> None:
    """What an edge renders to, for a person to read in a diff."""
    rendered = render(GOLDEN_EDGES[name])
    assert_golden(HAPROXY / f"edge-{name}.cfg", rendered.haproxy_cfg)
    assert_golden(HAPROXY / f"edge-{name}.spoe.cfg", rendered.spoe_cfg)


def test_equal_edges_render_to_equal_text() -> None:
    """A pure function of its argument."""
    assert render(make_edge()) == render(make_edge())


def test_the_lua_script_is_not_templated() -> None:
    """Every edge runs the same script; what differs are its arguments."""
    assert len({render(edge).lua for edge in GOLDEN_EDGES.values()}) == 1


def test_replay_follows_the_window_unless_set() -> None:
    """Copies of large buffers cost more than the rest of the request, so they are made for small ones only."""
    asked = "retry-on conn-failure empty-response"
    waits = "http-request wait-for-body time 10s\n"
    for edge, replays in (
        (make_edge(), True),
        (make_edge(body_window_bytes=262144), False),
        (make_edge(body_window_bytes=262144, replay=True), True),
        (make_edge(replay=False), False),
    ):
        text = render(edge).haproxy_cfg
        assert (asked in text) == (waits in text) == replays


def test_the_memory_for_copies_bounds_their_number() -> None:
    """So many requests under way as their copies, a buffer each, fit; none is counted where none is copied."""
    rule = "http-request disable-l7-retry if { be_conn gt %d }"
    assert rule % 1280 in render(make_edge()).haproxy_cfg
    assert rule % 5120 in render(make_edge(body_window_bytes=16384)).haproxy_cfg
    assert rule % 4096 in render(make_edge(replay_memory_mb=512)).haproxy_cfg
    assert "disable-l7-retry" not in render(make_edge(replay=False)).haproxy_cfg


def test_what_is_off_is_not_there() -> None:
    """Filter, keys, allow-list, override and cap cost nothing when they are off."""
    text = render(make_edge(max_body_bytes=0)).haproxy_cfg
    for word in ("pm_first_token", "sha2", "x-pointsman-policy", "req.body_size gt", "deny_status", "nbthread", "ops"):
        assert word not in text


def test_decisions_are_hidden_from_clients_with_keys_unless_asked_for() -> None:
    """A client that is one of many tenants does not learn where it was served, nor whether its prompt was known."""
    keys = {"api_keys_map": "/etc/pointsman/keys.map"}
    for changes, shown in (
        ({}, True),
        (keys, False),
        ({"keys_map": "/var/lib/pointsman/keys.map"}, False),
        (keys | {"expose_decision": "always"}, True),
        ({"expose_decision": "never"}, False),
    ):
        text = render(make_edge(**changes)).haproxy_cfg
        assert ("set-header x-pointsman-replica" in text) == ("set-header x-pointsman-reason" in text) == shown
        assert ("http-response del-header x-pointsman- -m beg" in text) == (not shown)


def test_the_answer_to_an_unknown_model_says_what_to_do() -> None:
    """It names the header, where there is one."""
    assert "name it in the header x-model." in render(make_edge()).haproxy_cfg
    assert 'in front of the prompt."' in render(make_edge(model_header="")).haproxy_cfg


def test_requests_are_held_where_the_router_can_be_asked() -> None:
    """With either lookup, by one rule on one variable; without the address the router's word to hold is not taken."""
    address = {"lookup_address": "127.0.0.1:9102"}
    for edge, holds in (
        (make_edge(), False),
        (make_edge(**address), True),
        (make_edge(lookup="lua", spop_address="", **address), True),
    ):
        rendered = render(edge)
        assert ("http-request lua.pm_hold if { var(txn.pm.hold) -m found }\n" in rendered.haproxy_cfg) == holds
        assert (" hold " in rendered.spoe_cfg) == holds


REFUSED = [
    pytest.param({"binds": ()}, "binds", id="no bind"),
    pytest.param({"ring_address": "127.0.0.1"}, "ring_address", id="no port"),
    pytest.param({"ring_address": "127.0.0.1:0"}, "ring_address", id="port 0"),
    pytest.param({"ring_address": "127.0.0.1:٣"}, "ring_address", id="a digit that is not ASCII"),
    pytest.param({"spop_address": ""}, "spop_address", id="spoe without its address"),
    pytest.param({"lookup": "lua"}, "lookup_address", id="lua without its address"),
    pytest.param({"lookup_address": "127.0.0.1"}, "lookup_address", id="holding without a port"),
    pytest.param({"lookup": "grpc"}, "lookup", id="unknown lookup"),
    pytest.param({"admin_socket": "admin.sock"}, "admin_socket", id="relative path"),
    pytest.param({"admin_socket": "/run/" + "x" * 100}, "admin_socket", id="socket path too long to bind"),
    pytest.param({"admin_socket": "/run/a b"}, "admin_socket", id="blank in a path"),
    pytest.param({"session_headers": ("x session",)}, "session_headers", id="blank in a header name"),
    pytest.param({"session_headers": ("x),lower",)}, "session_headers", id="bracket in a header name"),
    pytest.param({"session_headers": ("x-session#id",)}, "session_headers", id="comment in a header name"),
    pytest.param({"session_headers": ("x-$session",)}, "session_headers", id="variable in a header name"),
    pytest.param({"model_header": "x#model"}, "model_header", id="comment in the model's header"),
    pytest.param({"model_header": "x model"}, "model_header", id="blank in the model's header"),
    pytest.param({"model_header": "X-Pointsman-Model"}, "model_header", id="a header that is removed"),
    pytest.param({"path_models": {"/v1/x }": "m"}}, "path_models", id="end of an acl in a model's path"),
    pytest.param({"path_models": {"/v1/x": "m)"}}, "path_models", id="end of a fetch in a path's model"),
    pytest.param({"expose_decision": "yes"}, "expose_decision", id="unknown word for exposing"),
    pytest.param({"generation_paths": ()}, "generation_paths", id="nothing routed"),
    pytest.param({"generation_paths": ("/v1/x }",)}, "generation_paths", id="end of an acl in a path"),
    pytest.param({"allowed_paths": ("/v1*",)}, "allowed_paths", id="star inside a name"),
    pytest.param({"allowed_paths": ("/*/x",)}, "allowed_paths", id="star in the middle"),
    pytest.param({"keys_map": "/etc/keys) }"}, "keys_map", id="end of an acl in a path of keys"),
    pytest.param({"api_keys_map": "/etc/keys)"}, "api_keys_map", id="end of a converter in a path"),
    pytest.param({"user": "root\n"}, "user", id="line end in an account"),
    pytest.param({"body_needs": 16}, "body_needs", id="unknown bit"),
    pytest.param({"body_window_bytes": 1 << 21}, "body_window_bytes", id="window beyond its limit"),
    pytest.param({"hash_balance_percent": 100}, "hash_balance_percent", id="a bound nobody could stay in"),
    pytest.param({"threads": -1}, "threads", id="negative threads"),
    pytest.param({"servers": (Server("a", "10.0.0.1", 1),) * 2}, "servers", id="one name twice"),
]


@pytest.mark.parametrize(("changes", "key"), REFUSED)
def test_a_bad_value_is_refused_by_name(changes: dict[str, Any], key: str) -> None:
    """The error names key, value and what was expected."""
    with pytest.raises(ConfigError) as refused:
        make_edge(**changes)
    assert refused.value.key == key
    assert str(refused.value).startswith(f"{key}: got ")
    assert "expected" in str(refused.value)


@pytest.mark.parametrize(
    ("make", "key"),
    [
        pytest.param(lambda: Bind("", 80), "host", id="empty host"),
        pytest.param(lambda: Bind("a b", 80), "host", id="blank in a host"),
        pytest.param(lambda: Bind("1:2", 80), "host", id="not an IPv6 address"),
        pytest.param(lambda: Bind("*", 65536), "port", id="port too high"),
        pytest.param(lambda: Bind("*", 443, "site.pem"), "certificate", id="relative certificate"),
        pytest.param(lambda: Server("", "10.0.0.1", 80), "name", id="empty name"),
        pytest.param(lambda: Server("r/1", "10.0.0.1", 80), "name", id="slash in a name"),
        pytest.param(lambda: Server("r" * 65, "10.0.0.1", 80), "name", id="name too long"),
        pytest.param(lambda: Server("r", "replica.local", 80), "host", id="a name where an address must be"),
        pytest.param(lambda: ServerOptions(fall=0), "fall", id="never down"),
        pytest.param(lambda: ServerOptions(health_path="health"), "health_path", id="relative path"),
        pytest.param(lambda: Timeouts(processing_ms=0), "processing_ms", id="no time to answer"),
    ],
)
def test_a_bad_part_is_refused_by_name(make: Any, key: str) -> None:
    """Parts check themselves, so a bad one is never part of an edge."""
    with pytest.raises(ConfigError) as refused:
        make()
    assert refused.value.key == key


def test_decoding_names_the_place() -> None:
    """From a document, the error also says where; an unknown key is refused."""
    document = {
        "binds": [{"host": "*", "port": 80}],
        "ring_address": "h:1",
        "spop_address": "h:2",
        "admin_socket": "/a",
    }
    assert decode(document, EdgeConfig).binds[0].address == "*:80"
    document["binds"] = [{"host": "*", "port": 80}, {"host": "*", "port": 0}]
    with pytest.raises(ConfigError, match=r"^binds\[1\]\.port: got 0, expected a whole number from 1"):
        decode(document, EdgeConfig, error=ConfigError)
    with pytest.raises(
        ConfigError, match=r"^bind: unknown key \(did you mean 'binds'\?\), expected one of \d+ known keys"
    ):
        decode(document | {"binds": [], "bind": []}, EdgeConfig, error=ConfigError)


nasty = st.text(alphabet=st.sampled_from("a/1.:_- \n\r\t\"'\\#{}%$[]()*|;,\x00é"), max_size=12)


@given(nasty, nasty, nasty, nasty)
def test_no_value_adds_a_line_or_a_word(path: str, header: str, name: str, host: str) -> None:
    """Whatever is accepted stays one word in its place: the text has the same lines and words as with plain values."""

    def rendered(path: str, header: str, name: str, host: str) -> list[int]:
        edge = make_edge(
            admin_socket=path,
            api_keys_map=path,
            keys_map=path,
            session_headers=(header,),
            generation_paths=(path,),
            allowed_paths=(path,),
            servers=(Server(name, "10.0.0.1", 80),),
            binds=(Bind(host, 80),),
            ring_address=f"{host}:1",
        )
        text = render(edge)
        return [len(line.split()) for line in (text.haproxy_cfg + text.spoe_cfg).splitlines()]

    try:
        words = rendered(path, header, name, host)
    except ConfigError:
        return
    assert words == rendered("/a", "h", "r", "h")
    assert not set(path + header + name + host) & set(" \n\r\t\"'\\#{}()$[];,\x00")


def test_server_ids_come_from_names_alone() -> None:
    """All edges place a name at the same point of HAProxy's ring; a taken id is stepped over, not shared."""
    names = [f"replica-{n}" for n in range(500)]
    ids = server_ids(names)
    assert ids == server_ids(reversed(names))
    assert len(set(ids.values())) == 500
    assert all(0 < number < 2**31 for number in ids.values())
    taken = ids["replica-7"]
    assert server_ids(["replica-7"], [taken]) == {"replica-7": taken + 1}


def test_timeouts_limit_silence_alone() -> None:
    """Ten minutes for replicas, as long as OpenAI's clients wait; an hour for clients and for tunnels."""
    text = render(make_edge()).haproxy_cfg
    assert "timeout server 600s" in text
    assert "timeout client 3600s" in text
    assert "timeout tunnel 3600s" in text


def test_added_servers_have_the_words_of_those_in_the_file() -> None:
    """`add server` ignores defaults, so both are made of the same words."""
    options = ServerOptions(inter_ms=700)
    edge = make_edge(servers=(Server("r1", "10.0.0.7", 8000),), server_options=options)
    line = next(line for line in render(edge).haproxy_cfg.splitlines() if "server r1 " in line)
    assert line.endswith(options.keywords())
