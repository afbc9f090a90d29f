"""Reconciliation: the plan for each difference, and convergence against a model of HAProxy's own rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from other_task import another_task
from xxhash import xxh64_hexdigest

from pointsman.haproxy.config import GROUPS_MAP, HEALTH_MAP, MODELS_MAP, server_ids
from pointsman.haproxy.errors import CommandRefused, ConfigError
from pointsman.haproxy.reconcile import (
    GROUPS_MAX,
    MAPS,
    SLICE_ROWS,
    DesiredServer,
    ObservedServer,
    Reconciler,
    alias_models,
    groups,
    health_paths,
    observe,
    plan,
    slices,
)
from pointsman.haproxy.runtime_api import RuntimeAPI, ServerStat, ServerState
from pointsman.haproxy.server_options import ServerOptions

KEYWORDS = ServerOptions().keywords()


def make_desired(name: str = "r1", **changes: Any) -> DesiredServer:
    return DesiredServer(**({"name": name, "host": "10.0.0.1", "port": 8000} | changes))


def make_observed(name: str = "r1", **changes: Any) -> ObservedServer:
    plain = {
        "name": name,
        "host": "10.0.0.1",
        "port": 8000,
        "health": "up",
        "admin": "ready",
        "sessions": 0,
        "queued": 0,
        "id": server_ids([name])[name],
        "checked": True,
    }
    return ObservedServer(**(plain | changes))


def planned(desired: Sequence[DesiredServer], observed: Sequence[ObservedServer]) -> list[str]:
    return plan({one.name: one for one in desired}, {one.name: one for one in observed})


def test_others_are_left_in_place_when_asked() -> None:
    """A router that lost its state does not know them yet; what it knows is corrected all the same."""
    observed = {name: make_observed(name, admin="drain") for name in ("r1", "r2")}
    assert plan({"r1": make_desired()}, observed, keep_others=True) == ["set server fleet/r1 state ready"]


R1_ID = server_ids(["r1"])["r1"]


@pytest.mark.parametrize(
    ("desired", "observed", "commands"),
    [
        pytest.param([make_desired()], [make_observed()], [], id="as it should be"),
        pytest.param(
            [make_desired()],
            [],
            [
                f"add server fleet/r1 10.0.0.1:8000 id {R1_ID} {KEYWORDS}",
                "enable health fleet/r1",
                "set server fleet/r1 state ready",
            ],
            id="missing: added, checked, let in",
        ),
        pytest.param(
            [make_desired(drain=True, host="fd00::7")],
            [],
            [
                f"add server fleet/r1 [fd00::7]:8000 id {R1_ID} {KEYWORDS}",
                "enable health fleet/r1",
                "set server fleet/r1 state drain",
            ],
            id="missing and draining",
        ),
        pytest.param(
            [make_desired()],
            [make_observed(checked=False, admin="maint")],
            ["enable health fleet/r1", "set server fleet/r1 state ready"],
            id="an addition that was broken off",
        ),
        pytest.param(
            [make_desired(port=8001)],
            [make_observed()],
            ["set server fleet/r1 addr 10.0.0.1 port 8001"],
            id="moved",
        ),
        pytest.param(
            [make_desired(drain=True)], [make_observed(sessions=3)], ["set server fleet/r1 state drain"], id="to drain"
        ),
        pytest.param([make_desired()], [make_observed(admin="drain")], ["set server fleet/r1 state ready"], id="back"),
        pytest.param([make_desired()], [make_observed(health="down")], [], id="down is HAProxy's business"),
        pytest.param(
            [],
            [make_observed(sessions=1)],
            ["set server fleet/r1 state maint"],
            id="to remove, busy: nothing more is sent to it",
        ),
        pytest.param([], [make_observed(admin="maint", sessions=1)], [], id="to remove, still busy: wait"),
        pytest.param([], [make_observed(admin="maint", queued=1)], [], id="to remove, requests queued: wait"),
        pytest.param([], [make_observed(admin="maint")], ["del server fleet/r1"], id="to remove, idle"),
        pytest.param(
            [],
            [make_observed()],
            ["set server fleet/r1 state maint", "del server fleet/r1"],
            id="to remove, idle from the start",
        ),
        pytest.param(
            [make_desired()],
            [make_observed(admin="maint", sessions=1)],
            ["set server fleet/r1 state ready"],
            id="wanted again before it was gone",
        ),
    ],
)
def test_the_plan_for_each_difference(
    desired: list[DesiredServer], observed: list[ObservedServer], commands: list[str]
) -> None:
    """One row a difference."""
    assert planned(desired, observed) == commands


def test_removals_go_before_additions() -> None:
    """A name or address may move from one to the other in one step."""
    commands = planned([make_desired("b")], [make_observed("a")])
    assert commands.index("del server fleet/a") < next(i for i, c in enumerate(commands) if c.startswith("add"))


def test_an_id_in_use_is_stepped_over() -> None:
    """Ids are unique in a backend."""
    (add, *_) = planned([make_desired("r1"), make_desired("r2")], [make_observed("r2", id=R1_ID)])
    assert f" id {R1_ID + 1} " in add


@pytest.mark.parametrize("observed", [[], [make_observed()]], ids=["added", "moved"])
def test_a_server_that_would_break_a_command_is_refused(observed: list[ObservedServer]) -> None:
    """Names and addresses come from registrations: they are checked before they become commands."""
    with pytest.raises(ConfigError, match="host"):
        planned([make_desired(host="10.0.0.1; shutdown sessions server fleet/r2")], observed)


@pytest.mark.parametrize(
    ("op_state", "check_status", "admin_state", "health", "admin"),
    [
        pytest.param(2, 15, 0, "up", "ready", id="up"),
        pytest.param(2, 1, 0, "starting", "ready", id="added, not checked yet"),
        pytest.param(2, 0, 0, "starting", "ready", id="from the file, not checked yet"),
        pytest.param(1, 15, 0, "up", "ready", id="warming up"),
        pytest.param(0, 8, 0, "down", "ready", id="down"),
        pytest.param(2, 15, 0x08, "up", "drain", id="draining"),
        pytest.param(0, 15, 0x01, "down", "maint", id="maintenance"),
        pytest.param(0, 15, 0x09, "down", "maint", id="maintenance over drain"),
        pytest.param(0, 15, 0x04, "down", "maint", id="disabled in the file"),
    ],
)
def test_states_in_haproxys_words(op_state: int, check_status: int, admin_state: int, health: str, admin: str) -> None:
    """Numbers of `show servers state` to ours."""
    state = ServerState("fleet", 1, "r1", "10.0.0.1", 80, op_state, admin_state, 16, check_status, 6)
    (seen,) = observe([state], {"r1": ServerStat("fleet", "r1", "", sessions=2, queued=1)}).values()
    assert (seen.health, seen.admin, seen.sessions, seen.queued) == (health, admin, 2, 1)


def test_a_server_in_one_of_two_answers_is_not_seen() -> None:
    """It came or went between them; the next round sees it."""
    state = ServerState("fleet", 1, "r1", "10.0.0.1", 80, 2, 0, 16, 15, 6)
    assert observe([state], {}) == {}
    assert observe([], {"r1": ServerStat("fleet", "r1", "UP", 0, 0)}) == {}


class ModelHAProxy(RuntimeAPI):
    """HAProxy's rules for servers (management.txt), without HAProxy."""

    def __init__(self) -> None:
        super().__init__("/model")
        self.pid = 1
        self.servers: dict[str, dict[str, Any]] = {}
        self.maps: dict[str, dict[str, str]] = {name: {} for name in MAPS}
        self.lingering: set[str] = set()
        """Servers whose last connection is just closing: not deletable, though `show stat` counts nothing."""
        self.commands: list[str] = []

    def restart(self) -> None:
        """A new process: what was added at run time is gone."""
        self.pid += 1
        self.servers.clear()
        self.maps = {name: {} for name in MAPS}

    async def answers(self, commands: Sequence[str]) -> list[str]:
        return [self.answer(command) for command in commands]

    def answer(self, command: str) -> str:
        words = command.split()
        match words[:2]:
            case ["show", "info"]:
                return f"Name: HAProxy\nPid: {self.pid}\nVersion: 2.8.25\nUptime_sec: 1\nCurrConns: 0\nStopping: 0"
            case ["show", "servers"]:
                columns = "be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight"
                head = f"1\n# {columns} srv_check_status srv_check_state srv_port"
                rows = [
                    f"fleet {s['id']} {name} {s['host']} {0 if s['admin'] & 1 else 2} {s['admin']} 16 15 {s['check']}"
                    f" {s['port']}"
                    for name, s in self.servers.items()
                ]
                return "\n".join((head, *rows))
            case ["show", "stat"]:
                rows = [f"fleet,{name},UP,{s['sessions']},0,2," for name, s in self.servers.items()]
                return "\n".join(("# pxname,svname,status,scur,qcur,type,", *rows))
            case ["show", "map"]:
                return "\n".join(f"0x{n:x} {key} {value}" for n, (key, value) in enumerate(self.maps[words[2]].items()))
        self.commands.append(command)
        if words[1] == "map":
            entries = self.maps[words[2]]
            if (words[3] in entries) == (words[0] == "add"):
                return "[3]: entry not found, or there already"
            if words[0] == "del":
                del entries[words[3]]
            else:
                entries[words[3]] = words[4]
            return ""
        name = words[2].removeprefix("fleet/")
        if words[:2] == ["add", "server"]:
            if name in self.servers or int(words[5]) in {s["id"] for s in self.servers.values()}:
                return "[3]: Already exists"
            host, _, port = words[3].rpartition(":")
            new = {"host": host.strip("[]"), "port": int(port), "id": int(words[5])}
            self.servers[name] = new | {"admin": 1, "check": 2, "sessions": 0}
            return "[6]: New server registered."
        if name not in self.servers:
            return "[3]: No such server."
        server = self.servers[name]
        match words:
            case ["del", "server", _]:
                if not server["admin"] & 1:
                    return "[3]: Only servers in maintenance mode can be deleted."
                if server["sessions"] or name in self.lingering:
                    return "[3]: Server still has connections attached to it, cannot remove it."
                del self.servers[name]
                return "[6]: Server deleted."
            case ["enable", "health", _]:
                server["check"] |= 4
            case ["set", "server", _, "state", state]:
                server["admin"] = {"ready": 0, "maint": 1, "drain": 8}[state]
            case ["set", "server", _, "addr", host, "port", port]:
                server |= {"host": host, "port": int(port)}
            case _:
                return f"[6]: Unknown command: '{command}'"
        return ""


async def test_a_step_applies_looks_again_and_then_rests() -> None:
    """The observation is of after the commands; a second step has nothing to do."""
    model = ModelHAProxy()
    desired = {"r1": make_desired("r1"), "r2": make_desired("r2", drain=True)}
    first = await Reconciler(model).step(desired)
    assert first.changed
    assert {name: server.admin for name, server in first.servers.items()} == {"r1": "ready", "r2": "drain"}
    second = await Reconciler(model).step(desired)
    assert second == first._replace(changed=False)


async def test_a_servers_own_health_path_is_there_before_its_first_check() -> None:
    """The map's entry comes before the server, follows a change, and goes with it."""
    model = ModelHAProxy()
    reconciler = Reconciler(model)
    await reconciler.step({"r1": make_desired(health_path="/v1/models")})
    assert model.commands[0] == "add map health.map r1 /v1/models"
    await reconciler.step({"r1": make_desired(health_path="/ready")})
    assert model.commands[-1] == "set map health.map r1 /ready"
    await reconciler.step({"r1": make_desired()})
    assert model.commands[-1] == "del map health.map r1"
    assert not (await reconciler.step({"r1": make_desired()})).changed


def grouped(**names: str | None) -> tuple[dict[str, str], dict[str, str]]:
    """The maps for servers that serve these models, a letter each; "" serves any, None is not known yet."""
    return groups(
        {
            server: make_desired(server, names=None if letters is None else frozenset(letters))
            for server, letters in names.items()
        }
    )


def test_servers_of_one_model_need_no_groups() -> None:
    """HAProxy may choose any of them."""
    assert grouped(a="m", b="m") == grouped(a="", b="") == grouped() == ({}, {})


def test_servers_are_grouped_by_what_they_serve() -> None:
    """Names of clients are written as hashes: no name breaks a command, however odd."""
    by_server, by_model = grouped(a="m", b="m", c="n", d="mn", any="", fresh=None)
    assert by_server["a"] == by_server["b"] != by_server["c"]
    assert set(by_server) == {"a", "b", "c", "d", "fresh"}, "what serves anything is of no group"
    m, n = (by_model[xxh64_hexdigest(name.encode())].split(",") for name in "mn")
    assert set(m) == {by_server["a"], by_server["d"]}
    assert set(n) == {by_server["c"], by_server["d"]}
    assert by_server["fresh"] not in (*m, *n), "who is still to be asked serves nobody yet"


def test_a_request_that_names_no_model_goes_to_the_only_one() -> None:
    """Its servers differ in adapters. With two models nobody may guess."""
    one = make_desired("a", names=frozenset(("m", "sql")), model="m")
    two = make_desired("b", names=frozenset(("m", "math")), model="m")
    by_server, by_model = groups({"a": one, "b": two})
    assert set(by_model[xxh64_hexdigest(b"")].split(",")) == set(by_server.values())
    _, by_model = groups({"a": one, "b": two, "c": make_desired("c", names=frozenset("n"), model="n")})
    assert xxh64_hexdigest(b"") not in by_model


def test_groups_of_one_name_are_bounded() -> None:
    """A command must not outgrow HAProxy's buffer."""
    many = {f"r{n}": make_desired(f"r{n}", names=frozenset(("base", f"adapter-{n}"))) for n in range(GROUPS_MAX + 10)}
    _, by_model = groups(many)
    assert len(by_model[xxh64_hexdigest(b"base")].split(",")) == GROUPS_MAX


def test_an_alias_stands_for_one_model() -> None:
    """By the hash of its name. A model that a map cannot hold is left out, and without aliases there is no entry."""
    one = make_desired("a", names=frozenset(("m", "chat")), model="m", aliases=frozenset({"chat"}))
    odd = make_desired("b", names=frozenset(("x y", "talk")), model="x y", aliases=frozenset({"talk"}))
    assert alias_models({"a": one, "b": odd}) == {xxh64_hexdigest(b"chat"): "m", "*": "1"}
    assert alias_models({"a": make_desired("a", names=frozenset("m"), model="m"), "b": odd}) == {}


async def test_groups_are_kept_up_to_date() -> None:
    """Filled when a second model comes, emptied when it leaves."""
    model = ModelHAProxy()
    reconciler = Reconciler(model)
    await reconciler.step({"r1": make_desired("r1", names=frozenset("m"))})
    assert not model.maps[GROUPS_MAP] and not model.maps[MODELS_MAP]
    both = {"r1": make_desired("r1", names=frozenset("m")), "r2": make_desired("r2", names=frozenset("n"))}
    await reconciler.step(both)
    assert (model.maps[GROUPS_MAP], model.maps[MODELS_MAP]) == groups(both)
    await reconciler.step({"r1": both["r1"]})
    assert not model.maps[GROUPS_MAP] and not model.maps[MODELS_MAP]


async def test_a_configuration_without_the_map_refuses_paths_alone() -> None:
    """A router that is ahead of its HAProxy's files still keeps its servers."""
    model = ModelHAProxy()
    plain = model.answer
    model.answer = lambda command: "[3]: Unknown map identifier." if " map " in command else plain(command)
    reconciler = Reconciler(model)
    assert (await reconciler.step({"r1": make_desired()})).servers.keys() == {"r1"}
    with pytest.raises(CommandRefused, match="Unknown map"):
        await reconciler.step({"r1": make_desired(health_path="/ready")})


def test_a_health_path_that_is_no_path_is_refused() -> None:
    """It would end up in a command."""
    with pytest.raises(ConfigError, match="health_path"):
        health_paths({"r1": make_desired(health_path="/a b")})


async def test_a_leaving_server_goes_when_its_last_stream_has_ended() -> None:
    """Maintenance at once, deletion when idle, tried again while the connection is still closing."""
    model = ModelHAProxy()
    reconciler = Reconciler(model)
    await reconciler.step({"r1": make_desired()})
    model.servers["r1"]["sessions"] = 1
    assert (await reconciler.step({})).servers["r1"].admin == "maint"
    assert "del server fleet/r1" not in model.commands
    model.servers["r1"]["sessions"] = 0
    model.lingering.add("r1")
    assert (await reconciler.step({})).servers["r1"].admin == "maint"
    model.lingering.clear()
    assert (await reconciler.step({})).servers == {}


async def test_a_refusal_is_raised_after_the_rest_was_applied() -> None:
    """One server HAProxy does not take leaves the others as they should be."""
    model = ModelHAProxy()
    plain = model.answer
    model.answer = lambda command: "[3]: no" if command.startswith("add server fleet/bad") else plain(command)
    with pytest.raises(CommandRefused, match="add server fleet/bad"):
        await Reconciler(model).step({name: make_desired(name) for name in ("bad", "good")})
    assert model.servers.keys() == {"good"}


servers = st.builds(
    DesiredServer,
    name=st.sampled_from(["a", "b", "c", "d"]),
    host=st.sampled_from(["10.0.0.1", "10.0.0.2", "fd00::7"]),
    port=st.integers(1, 3),
    drain=st.booleans(),
    health_path=st.sampled_from(["", "/v1/models", "/ready"]),
)
fleets = st.lists(servers, max_size=4).map(lambda found: {server.name: server for server in found})
events = st.lists(fleets | st.sampled_from(["restart", "busy", "idle"]), max_size=12)


@given(events, fleets)
async def test_any_history_converges_without_cutting_a_stream(
    history: list[Any], last: dict[str, DesiredServer]
) -> None:
    """Whatever came before, one step brings everything but busy leavers in place, and idle ones go with the next."""
    model = ModelHAProxy()
    reconciler = Reconciler(model)
    for event in [*history, last]:
        match event:
            case "restart":
                model.restart()
            case "busy" | "idle":
                for server in model.servers.values():
                    server["sessions"] = int(event == "busy")
            case _:
                await reconciler.step(event)
    seen = (await reconciler.step(last)).servers
    assert model.maps[HEALTH_MAP] == {name: wanted.health_path for name, wanted in last.items() if wanted.health_path}
    for name, wanted in last.items():
        assert (seen[name].host, seen[name].port) == (wanted.host, wanted.port)
        assert seen[name].admin == ("drain" if wanted.drain else "ready")
        assert seen[name].checked
    assert all(server.admin == "maint" and server.sessions for name, server in seen.items() if name not in last)
    for server in model.servers.values():
        server["sessions"] = 0
    await reconciler.step(last)
    settled = await reconciler.step(last)
    assert not settled.changed
    assert settled.servers.keys() == last.keys()


def test_a_table_is_cut_between_rows_and_keeps_its_head() -> None:
    """Parsing the pieces gives what parsing the whole gives, also of a table without rows."""
    for rows in (0, 1, SLICE_ROWS, SLICE_ROWS + 1, 3 * SLICE_ROWS):
        table = "\n".join(["1", "# be_name", *(f"row {number}" for number in range(rows))])
        pieces = list(slices(table, 2))
        assert len(pieces) == max(1, -(-rows // SLICE_ROWS))
        assert all(piece.startswith("1\n# be_name") for piece in pieces)
        assert [row for piece in pieces for row in piece.split("\n")[2:]] == table.split("\n")[2:]


async def test_others_run_while_a_large_fleet_is_looked_at() -> None:
    """Between slices of the fleet, so that no lookup waits for a whole round."""
    haproxy = ModelHAProxy()
    desired = {f"r{n}": DesiredServer(f"r{n}", "127.0.0.1", 1024 + n) for n in range(5 * SLICE_ROWS)}
    reconciler = Reconciler(haproxy)
    await reconciler.step(desired)
    async with another_task() as turns:
        observation = await reconciler.step(desired)
    assert len(observation.servers) == len(desired)
    assert not observation.changed
    assert turns.count >= 10  # two tables of five slices each


def test_servers_are_added_with_the_check_intervals_of_the_fleet_that_they_make() -> None:
    desired = {f"r{n}": DesiredServer(f"r{n}", "10.0.0.1", 1 + n) for n in range(700)}
    observed = {name: make_observed(name) for name in list(desired)[:600]}
    keywords = ServerOptions().keywords(700, before=600)
    added = [command for command in plan(desired, observed) if command.startswith("add server")]
    assert len(added) == 100
    assert all(command.endswith(keywords) for command in added)
