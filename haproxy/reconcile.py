"""Level-triggered reconciliation of one HAProxy backend: the servers it should have against those it has, and the maps
that go with them.

`plan` compares and says which Runtime API commands make up the difference; it is pure, and running it against what it
wished for gives no command. `Reconciler.step` looks, plans, applies and looks again. Because each step starts from what
HAProxy says, a reload or restart needs no memory: what is missing is added again.

A server leaves in two stages: maintenance at once (nothing more is sent to it, streams on it go on), deletion when it
serves nothing any more, tried again at every step. No command here ends a stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Literal, NamedTuple

from xxhash import xxh64_hexdigest

from pointsman.haproxy.charset import MODEL
from pointsman.haproxy.config import MAPS, RING_BACKEND, Server, server_ids
from pointsman.haproxy.errors import CommandRefused
from pointsman.haproxy.last_check import CheckRow
from pointsman.haproxy.places import Places
from pointsman.haproxy.runtime_api import (
    RuntimeAPI,
    ServerStat,
    ServerState,
    check_answer,
    parse_info,
    parse_map,
    parse_servers_state,
    parse_stat,
)
from pointsman.haproxy.server_options import ServerOptions

DELETE_VERB = "del server "
GROUPS_MAX = 256
"""Groups that are listed for one name; what serves it beyond them is not chosen while the router is away."""

SLICE_ROWS = 128
"""Servers read or compared before other tasks run: about half a millisecond."""

Health = Literal["up", "down", "starting"]
Admin = Literal["ready", "drain", "maint"]

_OP_STOPPED = 0
_MAINT_BITS = 0x01 | 0x02 | 0x04 | 0x20
_DRAIN_BITS = 0x08 | 0x10
_CHECK_ENABLED = 0x04
_CHECK_NEVER_DONE = (0, 1)
"""`srv_check_status` before the first result: unknown, initialising (check-t.h, HCHK_STATUS_*)."""


class DesiredServer(NamedTuple):
    """A server as it should be. With `drain` it keeps what it has and gets nothing that HAProxy balances itself."""

    name: str
    host: str
    """An IP address."""
    port: int
    drain: bool = False
    health_path: str = ""
    """Where its health check goes; empty: `ServerOptions.health_path`."""
    names: frozenset[str] | None = frozenset()
    """Models that requests may ask it for. Empty: any; None: not known yet, so none."""
    model: str = ""
    """The one of them that it is, the others being aliases and adapters: what it takes a request for that names
    none."""
    aliases: frozenset[str] = frozenset()
    """Names among `names` that stand for `model`, as the server has to be told."""


class ObservedServer(NamedTuple):
    """A server as HAProxy has it."""

    name: str
    host: str
    port: int
    health: Health
    """`starting`: not checked yet; HAProxy uses it already."""
    admin: Admin
    sessions: int
    """Requests being served by this process; those of a process that is being replaced are not counted."""
    queued: int
    """Requests waiting in HAProxy for this server."""
    id: int
    checked: bool
    """Whether its health check is switched on."""
    check: CheckRow | None = None
    """The server's last health check, unread; None where nobody looked."""


class Observation(NamedTuple):
    """Result of one step."""

    pid: int
    """Of the HAProxy worker; another pid is another process, with its own counters."""
    servers: dict[str, ObservedServer]
    changed: bool
    """Whether this step sent commands."""


def _health(state: ServerState) -> Health:
    if state.op_state == _OP_STOPPED:
        return "down"
    return "starting" if state.check_status in _CHECK_NEVER_DONE else "up"


def _admin(state: ServerState) -> Admin:
    if state.admin_state & _MAINT_BITS:
        return "maint"
    return "drain" if state.admin_state & _DRAIN_BITS else "ready"


def slices(text: str, head_lines: int) -> Iterator[str]:
    """Split a table into pieces of `SLICE_ROWS` rows, each with the table's head."""
    lines = text.split("\n")
    head, rows = lines[:head_lines], lines[head_lines:]
    for at in range(0, max(1, len(rows)), SLICE_ROWS):
        yield "\n".join((*head, *rows[at : at + SLICE_ROWS]))


def observe(states: Iterable[ServerState], stats: Mapping[str, ServerStat]) -> dict[str, ObservedServer]:
    """Join rows of `show servers state` with those of `show stat`, by name; a server in only one of them was just added
    or deleted."""
    return {
        state.name: ObservedServer(
            name=state.name,
            host=state.host,
            port=state.port,
            health=_health(state),
            admin=_admin(state),
            sessions=stats[state.name].sessions,
            queued=stats[state.name].queued,
            id=state.id,
            checked=bool(state.check_state & _CHECK_ENABLED),
            check=stats[state.name].check,
        )
        for state in states
        if state.name in stats
    }


def plan(
    desired: Mapping[str, DesiredServer],
    observed: Mapping[str, ObservedServer],
    *,
    backend: str = "fleet",
    options: ServerOptions = ServerOptions(),  # noqa: B008 -- frozen
    keep_others: bool = False,
) -> list[str]:
    """The commands that turn `observed` into `desired`, in order; none when nothing differs.

    With `keep_others`, servers that are not desired are left as they are.
    """
    commands: list[str] = []
    for name, server in observed.items():
        if name not in desired and not keep_others:
            commands += _plan_removal(f"{backend}/{name}", server)
    missing = desired.keys() - observed.keys()
    ids = server_ids(missing, (server.id for server in observed.values()))
    keywords = options.keywords(len(desired), before=len(desired) - len(missing)) if missing else ""
    for name, wanted in desired.items():
        full_name = f"{backend}/{name}"
        if name in missing:
            commands += _plan_addition(full_name, wanted, ids[name], keywords)
        else:
            commands += _plan_correction(full_name, wanted, observed[name])
    return commands


def plan_map(name: str, desired: Mapping[str, str], observed: Mapping[str, str]) -> list[str]:
    """The commands that turn a map's entries into `desired`. Keys have no spaces, nor have values."""
    commands = [f"del map {name} {key}" for key in observed if key not in desired]
    for key, value in desired.items():
        if key not in observed:
            commands.append(f"add map {name} {key} {value}")
        elif observed[key] != value:
            commands.append(f"set map {name} {key} {value}")
    return commands


def health_paths(desired: Mapping[str, DesiredServer]) -> dict[str, str]:
    """The entries of `HEALTH_MAP`. Raises ConfigError."""
    return {name: _checked(wanted).health_path for name, wanted in desired.items() if wanted.health_path}


def groups(desired: Mapping[str, DesiredServer]) -> tuple[dict[str, str], dict[str, str]]:
    """The entries of `GROUPS_MAP` and `MODELS_MAP`: none while all servers serve the same.

    Names come from clients and their registrations, so what is written of them is their hash. The empty one is there
    where all servers are the same model, and differ in adapters.
    """
    tokens: dict[frozenset[str] | None, str] = {None: xxh64_hexdigest(b"")}
    for server in desired.values():
        if server.names not in tokens:
            tokens[server.names] = xxh64_hexdigest("\0".join(sorted(server.names or ())).encode("utf-8", "replace"))
    if len({server.names for server in desired.values()}) <= 1:
        return {}, {}
    models: dict[str, list[str]] = {}
    for names, token in sorted(tokens.items(), key=lambda item: item[1]):
        for name in names or ():
            models.setdefault(xxh64_hexdigest(name.encode("utf-8", "replace")), []).append(token)
    named = [server for server in desired.values() if server.names]
    if len({server.model for server in named}) == 1 and named[0].model:
        models[tokens[None]] = sorted({tokens[server.names] for server in named})
    return (
        {name: tokens[server.names] for name, server in desired.items() if server.names != frozenset()},
        {name: ",".join(serving[:GROUPS_MAX]) for name, serving in models.items()},
    )


def alias_models(desired: Mapping[str, DesiredServer]) -> dict[str, str]:
    """The entries of `ALIASES_MAP`: none while no server has aliases. Models of other letters than a map takes are left
    out."""
    found = {
        xxh64_hexdigest(alias.encode("utf-8", "replace")): server.model
        for _, server in sorted(desired.items())
        if MODEL.fullmatch(server.model)
        for alias in server.aliases
    }
    return found | {"*": "1"} if found else {}


def _entries(answer: str) -> dict[str, str]:
    """Of `show map`; none where the configuration knows no such map. Adding to that one is refused, and says so."""
    try:
        return parse_map(check_answer("show map", answer))
    except CommandRefused:
        return {}


def _checked(wanted: DesiredServer) -> Server:
    """Check a server as a configuration value, whose charsets keep a command one command. Raises ConfigError."""
    return Server(wanted.name, wanted.host, wanted.port, wanted.health_path)


def _plan_removal(full_name: str, server: ObservedServer) -> list[str]:
    commands = [] if server.admin == "maint" else [f"set server {full_name} state maint"]
    if not server.sessions and not server.queued:
        commands.append(DELETE_VERB + full_name)
    return commands


def _plan_addition(full_name: str, wanted: DesiredServer, server_id: int, keywords: str) -> list[str]:
    address = _checked(wanted).address
    return [
        # management.txt, "add server": starts in maintenance, with its checks off.
        f"add server {full_name} {address} id {server_id} {keywords}",
        f"enable health {full_name}",
        f"set server {full_name} state {'drain' if wanted.drain else 'ready'}",
    ]


def _plan_correction(full_name: str, wanted: DesiredServer, server: ObservedServer) -> list[str]:
    commands = []
    if (wanted.host, wanted.port) != (server.host, server.port):
        checked = _checked(wanted)
        commands.append(f"set server {full_name} addr {checked.host} port {checked.port}")
    if not server.checked:
        commands.append(f"enable health {full_name}")
    state: Admin = "drain" if wanted.drain else "ready"
    if server.admin != state:
        commands.append(f"set server {full_name} state {state}")
    return commands


class Reconciler:
    """Keeps one backend of one HAProxy at the servers it is told."""

    def __init__(self, api: RuntimeAPI, backend: str = "fleet", options: ServerOptions | None = None) -> None:
        self._api = api
        self._backend = backend
        self._options = options or ServerOptions()
        self._places = Places(api)

    def __repr__(self) -> str:
        return f"Reconciler({self._api.address!r}, {self._backend!r})"

    async def step(self, desired: Mapping[str, DesiredServer], *, keep_others: bool = False) -> Observation:
        """One round. With `keep_others`, servers that are not desired are left in place.

        Raises HAProxyUnavailable when HAProxy is away, ConfigError for a server that cannot be written as a command,
        CommandRefused when HAProxy does not take one (the others were applied).
        """
        observation = await self._step(desired, keep_others=keep_others)
        await self._places.follow(observation.pid, {server.name: server.id for server in observation.servers.values()})
        return observation

    async def _step(self, desired: Mapping[str, DesiredServer], *, keep_others: bool) -> Observation:
        pid, servers, maps = await self._look()
        # Paths first: a server's first check goes where it should.
        wanted = (health_paths(desired), *groups(desired), alias_models(desired))
        commands = [c for name, *entries in zip(MAPS, wanted, maps, strict=True) for c in plan_map(name, *entries)]
        commands += plan(desired, servers, backend=self._backend, options=self._options, keep_others=keep_others)
        if not commands:
            return Observation(pid, servers, changed=False)
        await self._apply(commands)
        pid, servers, _ = await self._look()
        return Observation(pid, servers, changed=True)

    async def write_to_ring(self) -> None:
        """Have HAProxy write a line to its log ring, at which it notices that a connection of the ring is dead.

        Nothing happens where the configuration has no server for it. Raises HAProxyUnavailable.
        """
        server = f"set server {RING_BACKEND}/line state"
        with suppress(CommandRefused):
            await self._api.run([f"{server} ready", f"{server} maint"])

    async def set_variable(self, name: str, value: int) -> None:
        """Set a process variable of the configuration; it is gone after a reload."""
        await self._api.set_variable(name, value)

    async def get_variable(self, name: str) -> int:
        """A process variable of the configuration; 0 where it has none of that name, or no number."""
        value = await self.get_text(name) or ""
        return int(value) if value.isascii() and value.isdigit() else 0

    async def get_text(self, name: str) -> str | None:
        """A process variable of the configuration as text; None where it has none of that name."""
        try:
            return await self._api.get_variable(name)
        except CommandRefused:
            return None

    async def _look(self) -> tuple[int, dict[str, ObservedServer], list[dict[str, str]]]:
        commands = ["show info", f"show servers state {self._backend}", f"show stat {self._backend} 4 -1"]
        answers = await self._api.answers([*commands, *(f"show map {name}" for name in MAPS)])
        info, states, stats = (check_answer(*pair) for pair in zip(commands, answers[:3], strict=True))
        maps = [_entries(answer) for answer in answers[3:]]
        counts: dict[str, ServerStat] = {}
        for piece in slices(stats, 1):
            counts |= {stat.name: stat for stat in parse_stat(piece)}
            await asyncio.sleep(0)
        seen: dict[str, ObservedServer] = {}
        for piece in slices(states, 2):
            seen |= observe(parse_servers_state(piece), counts)
            await asyncio.sleep(0)
        return parse_info(info).pid, seen, maps

    async def _apply(self, commands: list[str]) -> None:
        answers = await self._api.answers(commands)
        for command, answer in zip(commands, answers, strict=True):
            try:
                check_answer(command, answer)
            except CommandRefused:
                # A connection may still be closing; the next step tries again.
                if not command.startswith(DELETE_VERB):
                    raise
