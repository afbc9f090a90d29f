"""deploy/systemd: units systemd accepts, command lines that exist and work, settings that agree."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import yaml
from command_line import accept
from deploy_files import DEPLOY, load_yaml
from haproxy_fixture import until
from held_ports import pick_ports
from processes import stop
from units import Unit

from pointsman.commands.haproxy import DEFAULTS
from pointsman.engine.sim.config import SimConfig
from pointsman.engine.sim.server import SimServer
from pointsman.engine.vllm.fleet.config import decode_fleet
from pointsman.errors import EXIT_CONFIGURATION
from pointsman.haproxy.binary import find_binary
from pointsman.haproxy.config import EdgeConfig
from pointsman.haproxy.runtime_api import RuntimeAPI
from pointsman.router.settings import load_settings

SYSTEMD = DEPLOY / "systemd"
ETC = SYSTEMD / "etc"
PREFIX = "/opt/pointsman/bin"
RUN = "/run/pointsman"
STATE_FILE = "/var/lib/pointsman/state.json"
"""The router's; HAProxy's unit only reads it."""
CONFIGURATION = "/etc/pointsman"

ROUTER, HAPROXY, ENGINE = SERVICES = [
    Unit(SYSTEMD / f"pointsman-{name}.service") for name in ("router", "haproxy", "engine@")
]
TARGET = Unit(SYSTEMD / "pointsman.target")
INSTANCE = "qwen3"

ANALYZE = shutil.which("systemd-analyze")
needs_analyze = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed (Debian package systemd)")

WORST_EXPOSURE = {"pointsman-router": 2.0, "pointsman-haproxy": 2.0, f"pointsman-engine@{INSTANCE}": 5.0}
"""On the scale of `systemd-analyze security`, 0 to 10."""

each_service = pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.path.name)


def programs(folder: Path) -> Path:
    """A folder with the two programs of /opt/pointsman/bin."""
    folder.mkdir()
    (folder / "pointsman").symlink_to(Path(sys.executable).parent / "pointsman")
    (folder / "haproxy").symlink_to(find_binary().path)
    return folder


def installed(folder: Path) -> list[Path]:
    """The units as installed, with programs that exist on this machine, and one instance of the template."""
    prefix = str(programs(folder / "bin"))
    written = []
    for unit in (*SERVICES, TARGET):
        path = folder / unit.path.name.replace("@.", f"@{INSTANCE}.")
        path.write_text(unit.path.read_text().replace(PREFIX, prefix))
        written.append(path)
    return written


def analyze(*arguments: str | Path) -> str:
    command = [str(ANALYZE), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@needs_analyze
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    """`systemd-analyze verify` has nothing to say: every key is known, every program is there."""
    assert analyze("verify", "--man=no", *installed(tmp_path)) == ""


@needs_analyze
def test_the_units_are_hardened(tmp_path: Path) -> None:
    """The exposure systemd itself works out stays low."""
    for path in installed(tmp_path):
        if path.stem in WORST_EXPOSURE:
            threshold = str(round(WORST_EXPOSURE[path.stem] * 10))
            analyze("security", "--offline=yes", "--no-pager", f"--threshold={threshold}", path)


def test_users_are_made_for_the_units() -> None:
    """pointsman.sysusers.conf makes the users the units run as; HAProxy and router are one, engines another."""
    lines = (SYSTEMD / "pointsman.sysusers.conf").read_text().splitlines()
    users = {line.split()[1] for line in lines if line.startswith("u ")}
    assert {unit["Service.User"] for unit in SERVICES} == users
    assert ROUTER["Service.User"] == HAPROXY["Service.User"] != ENGINE["Service.User"]
    if sysusers := shutil.which("systemd-sysusers"):
        subprocess.run(
            [sysusers, "--dry-run", SYSTEMD / "pointsman.sysusers.conf"], check=True, capture_output=True, timeout=30
        )


@each_service
def test_command_lines_exist(unit: Unit) -> None:
    """Every Exec line runs pointsman with a subcommand and flags it has, haproxy, or kill."""
    for program, *arguments in unit.commands():
        assert program in (f"{PREFIX}/pointsman", f"{PREFIX}/haproxy", "/bin/kill"), program
        if program == f"{PREFIX}/pointsman":
            assert accept(arguments)


@each_service
def test_files_are_where_a_unit_may_write(unit: Unit) -> None:
    """The file system is read-only, so what a command line writes lies in the unit's own folders, and no one reads in
    a home."""
    assert unit["Service.ProtectSystem"] == "strict"
    assert unit["Service.ProtectHome"] == "yes"
    for _, *arguments in unit.commands():
        for word in arguments:
            if word.startswith("/"):
                assert word == STATE_FILE or word.startswith((f"{RUN}/", f"{CONFIGURATION}/")), word


@each_service
def test_a_refused_configuration_is_not_tried_again(unit: Unit) -> None:
    """Everything else is: a part that dies comes back."""
    assert unit["Service.Restart"] in ("always", "on-failure")
    if unit is not HAPROXY:
        assert unit["Service.RestartPreventExitStatus"] == str(EXIT_CONFIGURATION)


def test_the_sockets_are_shared() -> None:
    """HAProxy and router have one runtime folder, which neither takes away from the other when it stops."""
    for unit in (ROUTER, HAPROXY):
        assert f"/run/{unit['Service.RuntimeDirectory']}" == RUN
        assert unit["Service.RuntimeDirectoryMode"] == "0750"
        assert unit["Service.RuntimeDirectoryPreserve"] == "yes"
    assert Path(edge_config().admin_socket).parent == Path(RUN)


def test_no_other_user_of_the_host_reaches_the_router() -> None:
    """What HAProxy asks and reports goes over sockets in the runtime folder, which are made with mode 0600; HAProxy
    keeps its user and its root, or it could not open them."""
    settings, edge = load_settings(ETC / "router.yaml", environment={}), edge_config()
    for listen in (settings.spop, settings.ring, settings.lookup):
        assert Path(listen.path).parent == Path(RUN)
    assert not (edge.user or edge.chroot)
    assert settings.admin.listen.is_loopback


def test_the_target_is_the_edge() -> None:
    """`systemctl start pointsman.target` starts HAProxy and router, stop stops both, and so does a boot."""
    assert set(TARGET["Unit.Wants"].split()) == {"pointsman-router.service", "pointsman-haproxy.service"}
    assert TARGET["Install.WantedBy"] == "multi-user.target"
    for unit in (ROUTER, HAPROXY):
        assert unit["Unit.PartOf"] == unit["Install.WantedBy"] == "pointsman.target"


def edge_config() -> EdgeConfig:
    return msgspec.convert(DEFAULTS | load_yaml(ETC / "haproxy.yaml"), EdgeConfig)


def test_stopping_haproxy_outlasts_idle_clients() -> None:
    """A soft stop ends by itself when they are gone; systemd's patience must not end before."""
    assert HAPROXY["Service.KillSignal"] == "SIGUSR1"
    assert int(HAPROXY["Service.TimeoutStopSec"].removesuffix("s")) > edge_config().timeouts.http_keep_alive_s


def test_haproxy_may_open_what_its_limit_promises() -> None:
    """The rendered configuration takes up to 100,000 descriptors."""
    assert int(HAPROXY["Service.LimitNOFILE"]) >= 100_000


def test_the_examples_agree() -> None:
    """router.yaml and haproxy.yaml are two halves of one edge."""
    settings, edge = load_settings(ETC / "router.yaml", environment={}), edge_config()
    assert settings.edge.admin_socket == edge.admin_socket
    assert settings.edge.server_options == edge.server_options
    assert settings.override_header == edge.policy_override
    assert (edge.spop_address, edge.lookup_address, edge.models_address, edge.ring_address) == (
        str(settings.spop),
        str(settings.lookup),
        str(settings.lookup),
        str(settings.ring),
    )
    assert settings.state_file.startswith(f"/var/lib/{ROUTER['Service.StateDirectory']}/")


def test_the_engines_example_fits_its_unit() -> None:
    """The file is named as the instance, and decodes with the name the unit gives the fleet."""
    ((_, *arguments),) = ENGINE.commands("ExecStart")
    values = accept([word.replace("%i", INSTANCE) for word in arguments])
    assert values["config"] == f"{CONFIGURATION}/engine/{INSTANCE}.yaml"
    assert values["set_"] == [f"name={INSTANCE}"]
    config = decode_fleet(load_yaml(ETC / "engine" / f"{INSTANCE}.yaml") | {"name": INSTANCE})
    assert [pool.name for pool in config.pools] == [INSTANCE]
    assert config.admin == (f"http://{load_settings(ETC / 'router.yaml', environment={}).admin.listen}",)
    assert int(ENGINE["Service.TimeoutStopSec"].removesuffix("s")) > config.drain_s


def test_the_environment_file_names_what_is_read() -> None:
    """Units of router and engines read it, and a token in it reaches the router's settings."""
    for unit in (ROUTER, ENGINE):
        assert unit["Service.EnvironmentFile"] == f"-{CONFIGURATION}/environment"
    lines = [line.lstrip("#") for line in (ETC / "environment").read_text().splitlines() if "=" in line]
    environment = {line.partition("=")[0]: "secret" for line in lines}
    assert load_settings(ETC / "router.yaml", environment=environment).admin.token == "secret"


class Host:
    """/etc, /run and /opt of the units in a folder, on ports of its own, to run their command lines as systemd does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.prefix = programs(folder / "bin")
        self.admin, self.front, self.ops = pick_ports(3)
        self.admin_socket = folder / "run" / "admin.sock"
        for name in ("run", "etc"):
            (folder / name).mkdir()
        self.sockets = {name: folder / "run" / f"{name}.sock" for name in ("spop", "ring", "lookup")}
        self.write("router", {name: {"path": str(path)} for name, path in self.sockets.items()})
        self.write("router", {"admin": {"port": self.admin}, "state_file": str(folder / "state.json")})
        self.write("router", {"edge": {"admin_socket": str(self.admin_socket)}})
        self.write("haproxy", {f"{name}_address": f"unix@{path}" for name, path in self.sockets.items()})
        self.write("haproxy", {"models_address": f"unix@{self.sockets['lookup']}"})
        self.write("haproxy", {"binds": [{"host": "127.0.0.1", "port": self.front}]})
        self.write("haproxy", {"ops": {"host": "127.0.0.1", "port": self.ops}, "admin_socket": str(self.admin_socket)})

    def write(self, name: str, changes: dict[str, Any]) -> None:
        """The example file, or what `write` has made of it, with `changes`."""
        path = self.folder / "etc" / f"{name}.yaml"
        document = load_yaml(path if path.exists() else ETC / path.name)
        path.write_text(yaml.safe_dump(document | changes))

    def command(self, words: list[str], pid: int = 0) -> list[str]:
        """A command line with this host's folders."""
        moved = {PREFIX: str(self.prefix), RUN: str(self.folder / "run"), CONFIGURATION: str(self.folder / "etc")}
        replaced = []
        for word in words:
            for old, new in moved.items():
                word = word.replace(old, new)
            replaced.append(word.replace("$MAINPID", str(pid)))
        return replaced

    async def start(self, unit: Unit) -> asyncio.subprocess.Process:
        """ExecStartPre to their end, then ExecStart."""
        assert await self.run(unit, "ExecStartPre") == 0
        (command,) = unit.commands("ExecStart")
        with (self.folder / f"{unit.path.stem}.log").open("ab") as log:
            return await asyncio.create_subprocess_exec(*self.command(command), stdout=log, stderr=log)

    async def run(self, unit: Unit, key: str, pid: int = 0) -> int:
        """The Exec lines of `key` one after another; the exit code of the first that fails."""
        for command in unit.commands(key):
            process = await asyncio.create_subprocess_exec(
                *self.command(command, pid), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
            )
            if code := await process.wait():
                return code
        return 0


async def status(url: str) -> int:
    """Of one GET on a connection of its own, which does not hold up a soft stop; 0 when nobody listens."""
    try:
        async with httpx.AsyncClient(trust_env=False) as client:
            return (await client.get(url)).status_code
    except httpx.HTTPError:
        return 0


@pytest.mark.e2e
@pytest.mark.system
async def test_the_command_lines_make_an_edge(tmp_path: Path) -> None:
    """Started as systemd would start them, router and HAProxy find each other; a reload puts new workers on a changed
    file, a file that is refused changes nothing, and both end with success."""
    host = Host(tmp_path)
    router = await host.start(ROUTER)
    haproxy = await host.start(HAPROXY)
    api = RuntimeAPI(str(host.admin_socket))

    async def ready() -> bool:
        return await status(f"http://127.0.0.1:{host.admin}/readyz?exclude=replicas") == 200

    try:
        await until(ready)
        worker = (await api.info()).pid

        host.write("haproxy", {"binds": "nonsense"})
        assert await host.run(HAPROXY, "ExecReload", haproxy.pid) == EXIT_CONFIGURATION
        assert (await api.info()).pid == worker

        (moved,) = pick_ports(1)
        host.write("haproxy", {"binds": [{"host": "127.0.0.1", "port": moved}]})
        assert await host.run(HAPROXY, "ExecReload", haproxy.pid) == 0

        async def serves_there() -> bool:
            return await status(f"http://127.0.0.1:{moved}/v1/models") == 200

        await until(serves_there)
        await until(ready)
        assert (await api.info()).pid != worker
    finally:
        soft_stop = signal.Signals[HAPROXY["Service.KillSignal"]]
        codes = [await stop(haproxy, soft_stop), await stop(router, signal.SIGTERM)]
    assert codes == [0, 0]


@pytest.mark.e2e
@pytest.mark.system
@pytest.mark.parametrize("lookup", ["spoe", "lua"])
async def test_the_edge_decides_over_its_sockets(tmp_path: Path, lookup: str) -> None:
    """With either lookup a request is placed by the policy, the fleet's models are listed, the end of the request comes
    back; and no socket is open to another user."""
    host = Host(tmp_path)
    host.write("haproxy", {"lookup": lookup})
    host.write("router", {"policy": {"policy": "round_robin"}})
    router = await host.start(ROUTER)
    haproxy = await host.start(HAPROXY)
    admin, front = f"http://127.0.0.1:{host.admin}", f"http://127.0.0.1:{host.front}"
    try:
        async with SimServer(SimConfig(timing="fast")) as replica, httpx.AsyncClient(trust_env=False) as client:

            async def registered() -> bool:
                return await put(client, f"{admin}/v1/replicas/a", {"url": replica.url, "model": "sim"})

            async def ready() -> bool:
                return await status(f"{admin}/readyz") == 200

            async def decided() -> bool:
                body = {"model": "sim", "prompt": "hello", "max_tokens": 2}
                answer = await client.post(f"{front}/v1/completions", json=body)
                return answer.headers.get("x-pointsman-reason") == "round-robin"

            async def listed() -> bool:
                answer = await client.get(f"{front}/v1/models", headers={"host": "api.example"})
                return answer.is_success and [card["id"] for card in answer.json()["data"]] == ["sim"]

            async def ended() -> bool:
                replicas = (await client.get(f"{admin}/v1/replicas")).json()["replicas"]
                return replicas[0]["in_flight"] == 0

            for what in (registered, ready, decided, listed, ended):
                await until(what)
        for path in (*host.sockets.values(), host.admin_socket):
            assert path.stat().st_mode & 0o777 == 0o600, path
    finally:
        await stop(haproxy, signal.SIGTERM)
        await stop(router, signal.SIGTERM)


async def put(client: httpx.AsyncClient, url: str, body: dict[str, Any]) -> bool:
    """Whether a PUT succeeds; False while nobody listens."""
    try:
        return (await client.put(url, json=body)).is_success
    except httpx.HTTPError:
        return False
