"""docs/how-to-deploy.md: its commands exist, its files are there, its snippets do what is said of them."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import subprocess
from pathlib import Path

import msgspec
import yaml
from command_line import accept
from deploy_files import ROOT, alert_queries, load_yaml

from pointsman.commands.haproxy import DEFAULTS
from pointsman.contract.config import decode
from pointsman.contract.tokens import TokenList
from pointsman.haproxy.config import EdgeConfig
from pointsman.router.settings import load_settings

PAGE = (ROOT / "docs" / "how-to-deploy.md").read_text()
UNITS = ROOT / "deploy" / "systemd"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.M | re.S)


def commands() -> list[str]:
    """The lines of all shell blocks, continued ones joined."""
    return [line for block in blocks("bash") for line in block.replace("\\\n", " ").splitlines()]


def test_commands_of_ours_exist() -> None:
    """Every `pointsman ...` in a block is a command line it takes."""
    ours = [shlex.split(line)[1:] for line in commands() if line.startswith("pointsman ")]
    assert len(ours) >= 3
    assert all(accept(words) for words in ours)


def test_the_units_use_the_same_commands() -> None:
    """What is to be run by hand is what the units run."""
    units = "".join(path.read_text() for path in UNITS.glob("*.service")).replace("/opt/pointsman/bin/", "")
    for line in commands():
        by_people = "--check-config" in line or line.startswith("pointsman token ")
        if line.startswith(("pointsman ", "haproxy ")) and not by_people:
            assert line in units, line


def test_files_exist() -> None:
    """Links and paths of the repository lead somewhere."""
    linked = re.findall(r"\]\(([^)#]+)\)", PAGE)
    assert linked
    for target in linked:
        assert (ROOT / "docs" / target).exists(), target
    for name in re.findall(r"\bdeploy/[\w./*-]+\w", PAGE):
        assert list(ROOT.glob(name)) or name == "deploy/.env", name


def test_units_are_enabled_by_names_they_have() -> None:
    """`systemctl` is given units of deploy/systemd."""
    for line in commands():
        if line.startswith("systemctl enable"):
            for word in line.split()[3:]:
                name = re.sub(r"@.*", "@", word)
                assert (UNITS / name).exists() or (UNITS / f"{name}.service").exists(), word


def test_compose_is_given_services_it_has() -> None:
    """The command for GPUs starts services by their names, and needs no simulated one."""
    services = load_yaml(ROOT / "deploy" / "compose.yaml")["services"]
    (line,) = [line for line in commands() if "--profile gpu" in line]
    named = line.partition("--wait")[2].split()
    assert "gpu" in named
    assert set(named) <= services.keys()
    assert not any(name.startswith("sim") for service in named for name in services[service].get("depends_on", ()))


def test_a_key_line_is_what_haproxy_looks_up(tmp_path: Path) -> None:
    """The shell line appends `<sha256 of the key> <tenant>`."""
    keys = tmp_path / "api-keys.map"
    (line,) = [line for line in commands() if "sha256sum" in line]
    environment = os.environ | {"KEY": "sk-example", "TENANT": "team-a"}
    subprocess.run(
        ["sh", "-c", line.replace("/etc/pointsman/api-keys.map", str(keys))], env=environment, check=True, timeout=10
    )
    assert keys.read_text() == f"{hashlib.sha256(b'sk-example').hexdigest()} team-a\n"


def test_the_settings_it_shows_are_accepted() -> None:
    """YAML blocks are parts of haproxy.yaml or router.yaml, or a file of tokens."""
    for block in blocks("yaml"):
        shown = yaml.safe_load(block)
        if "tokens" in shown:
            assert decode(shown, TokenList).tokens
        elif "admin" in shown:
            assert load_settings(environment={}, overrides=shown).admin.scheme == "https"
        else:
            assert msgspec.convert(DEFAULTS | shown, EdgeConfig)


def test_the_alerts_it_names_exist() -> None:
    """By the names they have in alerts.yml."""
    named = set(re.findall(r"`(Pointsman\w+)`", PAGE))
    assert named
    assert named <= {query.where for query in alert_queries()}
