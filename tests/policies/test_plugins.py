"""Policies of other packages: found at start, and again while the router runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from installed_package import MORE, SOURCE, InstalledPackage

from pointsman.policies.errors import PolicyPluginError
from pointsman.policies.plugins import Reloaded, ReloadState, load_plugins, reload_plugins
from pointsman.policies.registry import POLICIES


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InstalledPackage]:
    """A package that may be installed into a folder that Python looks at."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    yield InstalledPackage(site)


def one(lines: list[Reloaded]) -> tuple[ReloadState, str]:
    (line,) = lines
    return line.state, line.detail


def test_a_package_that_came_since_is_loaded(package: InstalledPackage) -> None:
    """And found unchanged when one looks again."""
    assert reload_plugins(POLICIES, {}) == ({}, [])
    package.install()
    plugins, lines = reload_plugins(POLICIES, {})
    assert lines == [Reloaded("last", "fleet-extras", "1.0", ReloadState.LOADED)]
    again, lines = reload_plugins(POLICIES, plugins)
    assert one(lines) == (ReloadState.UNCHANGED, "")
    assert again["last"].policy is plugins["last"].policy


def test_another_version_needs_a_restart(package: InstalledPackage) -> None:
    """The classes that decide stay; what is installed is not imported beside them."""
    package.install()
    plugins = load_plugins(POLICIES)
    package.install("1.1")
    again, lines = reload_plugins(POLICIES, plugins)
    assert one(lines) == (ReloadState.NEEDS_RESTART, "version 1.0 was loaded")
    assert lines[0].version == "1.1" and again["last"].policy is plugins["last"].policy


def test_an_edited_file_needs_a_restart(package: InstalledPackage) -> None:
    """As in a package that is installed from its sources, whose version stays."""
    package.install()
    plugins = load_plugins(POLICIES)
    module = package.site / f"{package.module}.py"
    os.utime(module, ns=(1, 1))
    state, detail = one(reload_plugins(POLICIES, plugins)[1])
    assert state is ReloadState.NEEDS_RESTART and detail.endswith(f"{package.module}.py changed since it was loaded")


def test_a_second_policy_of_an_imported_module_needs_a_restart(package: InstalledPackage) -> None:
    """The module in this process does not have it."""
    package.install()
    plugins = load_plugins(POLICIES)
    package.install("1.1", SOURCE + MORE, last="Last", other="Other")
    again, lines = reload_plugins(POLICIES, plugins)
    assert {line.name: line.state for line in lines} == dict.fromkeys(("last", "other"), ReloadState.NEEDS_RESTART)
    assert lines[1].detail == "version 1.0 of the package is imported already"
    assert set(again) == {"last"}


def test_a_package_that_this_process_cannot_find_needs_a_restart(package: InstalledPackage) -> None:
    """An install from its sources adds to Python's path at the next start."""
    package.install()
    (package.site / f"{package.module}.py").unlink()
    plugins, lines = reload_plugins(POLICIES, {})
    state, detail = one(lines)
    assert not plugins and state is ReloadState.NEEDS_RESTART and "cannot be found by this process" in detail


def test_a_package_that_is_gone_stays_until_a_restart(package: InstalledPackage) -> None:
    """It may be the one that decides."""
    package.install()
    plugins = load_plugins(POLICIES)
    package.remove()
    again, lines = reload_plugins(POLICIES, plugins)
    assert one(lines)[0] is ReloadState.NEEDS_RESTART and "offers it no more" in one(lines)[1]
    assert set(again) == {"last"} and lines[0].version == ""


@pytest.mark.parametrize(
    ("source", "offered", "says"),
    [
        (SOURCE, {"last": "Nobody"}, "does not load"),
        ("raise RuntimeError('no GPU')", {"last": "Last"}, "does not load: no GPU"),
        (SOURCE, {"kv_cost": "Last"}, "the name is taken by pointsman itself"),
        ("class Last: pass", {"last": "Last"}, "has no rank, admit, terms, describe, close"),
    ],
)
def test_a_bad_package_is_told_and_all_else_goes_on(
    package: InstalledPackage, source: str, offered: dict[str, str], says: str
) -> None:
    """At start it is refused; while the router runs, nothing is lost by it."""
    package.install(source=source, **offered)
    plugins, lines = reload_plugins(POLICIES, {})
    state, detail = one(lines)
    assert not plugins and state is ReloadState.FAILED and says in detail
    with pytest.raises(PolicyPluginError, match=says):
        load_plugins(POLICIES)
