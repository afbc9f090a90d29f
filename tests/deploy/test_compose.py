"""deploy/compose.yaml: the same edge as `pointsman up`, in containers that fit together."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from command_line import accept
from deploy_files import DEPLOY, PROMETHEUS, load_yaml

from pointsman.commands.haproxy import DEFAULTS, render_to
from pointsman.haproxy.binary import find_binary
from pointsman.haproxy.config import EdgeConfig
from pointsman.router.errors import SettingsError
from pointsman.router.settings import Settings, load_settings

FILE = DEPLOY / "compose.yaml"
OURS = ("edge", "router", "haproxy", "sim-1", "sim-2", "gpu")
TOKEN = {"POINTSMAN_ADMIN__TOKEN": "secret"}


def services() -> dict[str, Any]:
    return dict(load_yaml(FILE)["services"])


def mounts(service: dict[str, Any]) -> dict[str, str]:
    """Path inside -> volume or path outside."""
    return {mount.split(":")[1]: mount.split(":")[0] for mount in service.get("volumes", ())}


def router_settings() -> Settings:
    return load_settings(DEPLOY / "containers" / "router.yaml", environment=TOKEN)


def edge_config() -> EdgeConfig:
    return msgspec.convert(DEFAULTS | load_yaml(DEPLOY / "containers" / "haproxy.yaml"), EdgeConfig)


def test_docker_compose_reads_it() -> None:
    """The file as `docker compose` understands it, where the client has that command; no daemon is asked."""
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("`docker compose` is not installed")
    secrets = {"POINTSMAN_ADMIN_TOKEN": "a", "GRAFANA_ADMIN_PASSWORD": "b"}
    subprocess.run(
        [docker, "compose", "-f", FILE, "config", "--quiet"], env=os.environ | secrets, check=True, timeout=60
    )


def test_what_is_named_exists() -> None:
    """Mounted files, build files, volumes and services that others depend on are all there."""
    document = load_yaml(FILE)
    for name, service in document["services"].items():
        for source in mounts(service).values():
            assert source in document["volumes"] or (source.startswith("./") and (DEPLOY / source).exists()), source
        if "build" in service:
            context = DEPLOY / service["build"]["context"]
            assert (context / service["build"]["dockerfile"]).is_file(), name
        assert set(service.get("depends_on", ())) <= document["services"].keys(), name


def test_commands_are_ones_pointsman_takes() -> None:
    """Each container of ours starts a subcommand with flags it has."""
    for name in OURS:
        service = services()[name]
        if service.get("entrypoint", ["pointsman"]) == ["pointsman"]:
            assert accept(service["command"]), name


def test_the_edge_is_one_network_namespace() -> None:
    """HAProxy and router share loopback, which is where lookups and log lines go, and publish nothing themselves."""
    for name in ("haproxy", "router"):
        service = services()[name]
        assert service["network_mode"] == "service:edge"
        assert "ports" not in service
        assert service["depends_on"]["edge"]["restart"], "whoever joined a namespace goes with it"
    settings, edge = router_settings(), edge_config()
    assert (edge.spop_address, edge.lookup_address, edge.ring_address) == (
        str(settings.spop),
        str(settings.lookup),
        str(settings.ring),
    )
    assert settings.spop.is_loopback
    assert settings.ring.is_loopback


def test_the_edge_shares_its_sockets() -> None:
    """One volume, one path and one user: the admin socket has mode 0600."""
    settings, edge = router_settings(), edge_config()
    assert settings.edge.admin_socket == edge.admin_socket
    folder = str(Path(edge.admin_socket).parent)
    assert mounts(services()["haproxy"])[folder] == mounts(services()["router"])[folder] == "sockets"
    assert not any("user" in services()[name] for name in OURS)
    assert settings.edge.server_options == edge.server_options
    assert settings.override_header == edge.policy_override


def test_the_routers_state_outlives_the_container() -> None:
    """Registrations and the live policy lie in a volume."""
    assert mounts(services()["router"])[str(Path(router_settings().state_file).parent)] == "state"


def test_the_admin_api_asks_for_a_token() -> None:
    """Replicas reach it from other containers, so the router does not start without one."""
    with pytest.raises(SettingsError, match="token"):
        load_settings(DEPLOY / "containers" / "router.yaml", environment={})
    for name in ("router", "sim-1", "sim-2", "gpu"):
        assert services()[name]["environment"]["POINTSMAN_ADMIN__TOKEN"].startswith("${POINTSMAN_ADMIN_TOKEN:?")


async def test_haproxy_accepts_its_configuration(tmp_path: Path) -> None:
    """`haproxy -c` on what the container renders."""
    render_to(DEPLOY / "containers" / "haproxy.yaml", tmp_path)
    checker = await asyncio.create_subprocess_exec(
        find_binary().path, "-c", "-f", str(tmp_path / "haproxy.cfg"), stderr=asyncio.subprocess.PIPE
    )
    _, said = await checker.communicate()
    assert checker.returncode == 0, said.decode()


def test_replicas_register_with_the_edge() -> None:
    """Under their own id, with the address they listen on, at the edge's admin port; no two alike."""
    seen = set()
    for name in ("sim-1", "sim-2"):
        values = accept(services()[name]["command"])
        assignments = dict(word.split("=", 1) for word in values["set_"])
        assert values["id"] == name
        assert assignments["url"] == f"http://{name}:{values['port']}"
        assert values["register"] == [f"http://edge:{router_settings().admin.port}"]
        seen.add(assignments["url"])
    assert len(seen) == 2


def test_health_checks_ask_where_somebody_listens() -> None:
    """HAProxy's own readiness says that a replica is up; a replica is asked what HAProxy asks it."""
    edge = edge_config()
    assert edge.ops is not None
    assert services()["haproxy"]["healthcheck"]["test"] == ["CMD", "answers", str(edge.ops.port), "/readyz"]
    for name in ("sim-1", "sim-2"):
        port = str(accept(services()[name]["command"])["port"])
        asked = edge.server_options.health_path
        assert services()[name]["healthcheck"]["test"] == ["CMD", "answers", port, asked]


def test_ports_are_published_on_loopback() -> None:
    """Nothing is reachable from outside the machine unless POINTSMAN_LISTEN says so."""
    published = {name: service["ports"] for name, service in services().items() if "ports" in service}
    assert published.keys() == {"edge", "prometheus", "grafana"}
    for ports in published.values():
        assert all(port.replace("${POINTSMAN_LISTEN:-", "").startswith("127.0.0.1:") for port in ports), ports
    inside = {int(port.rpartition(":")[2]) for port in published["edge"]}
    assert inside == {edge_config().binds[0].port, router_settings().admin.port}


def test_containers_may_do_little() -> None:
    """No capability, no new privileges; all but the engines, which compile kernels, on a read-only file system."""
    for name, service in services().items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service.get("read_only", False) == (name != "gpu"), name


def test_stopping_drains() -> None:
    """HAProxy is asked to stop softly and given longer than idle clients keep it; replicas longer than they drain."""
    haproxy = services()["haproxy"]
    assert haproxy["stop_signal"] == "SIGUSR1"
    assert seconds(haproxy["stop_grace_period"]) > edge_config().timeouts.http_keep_alive_s
    assert seconds(services()["sim-1"]["stop_grace_period"]) > 30
    assert seconds(services()["gpu"]["stop_grace_period"]) > 30


def seconds(text: str) -> int:
    assert text.endswith("s")
    return int(text[:-1])


def test_haproxy_may_open_what_its_limit_promises() -> None:
    """The rendered configuration takes up to 100,000 descriptors."""
    assert services()["haproxy"]["ulimits"]["nofile"]["soft"] >= 100_000


def test_the_example_environment_is_complete() -> None:
    """Every variable without a default is in compose.env.example, every one in there is used."""
    text = FILE.read_text()
    example = (DEPLOY / "compose.env.example").read_text()
    required = set(re.findall(r"\$\{(\w+):\?", text))
    assert required == set(re.findall(r"^(\w+)=", example, re.M))
    assert set(re.findall(r"^#?(\w+)=", example, re.M)) <= set(re.findall(r"\$\{(\w+)", text))
    assert ".env" in (DEPLOY / ".gitignore").read_text().split()


def test_prometheus_scrapes_what_runs() -> None:
    """Its targets are services of this file, on ports they listen on."""
    edge = edge_config()
    assert edge.ops is not None
    jobs = {job["job_name"]: job for job in load_yaml(PROMETHEUS / "prometheus.yml")["scrape_configs"]}
    assert jobs["pointsman-router"]["static_configs"] == [{"targets": [f"edge:{router_settings().admin.port}"]}]
    assert jobs["pointsman-haproxy"]["static_configs"] == [{"targets": [f"edge:{edge.ops.port}"]}]
    for group in load_yaml(PROMETHEUS / "targets" / "replicas.yml"):
        replica = group["labels"]["replica"]
        target = urlsplit(f"http://{group['targets'][0]}")
        assert target.hostname == replica
        assert target.port == int(accept(services()[replica]["command"])["port"])
    assert mounts(services()["prometheus"])["/etc/prometheus"] == "./prometheus"
