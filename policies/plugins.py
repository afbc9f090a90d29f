"""Policies that other packages offer, under the entry point group `pointsman.policies`.

`load_plugins` finds and loads them all at start; `reload_plugins` looks again while the router runs, and loads those
that came since. What always holds: a module that was imported is never imported again. Its classes live on in the
policies that decide, and a second copy of them in the same process would be another class with the same name: settings
of one would not fit the other, and what a module keeps for itself would be there twice. Whoever changed an installed
package is told to restart the router, which serves from where it was within a second.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Mapping
from enum import StrEnum
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import NamedTuple

from pointsman.policies.errors import PolicyPluginError
from pointsman.policies.policy import Policy, PolicyConfig
from pointsman.policies.policy_set import KEY_MODELS

ENTRY_POINTS = "pointsman.policies"

METHODS = ("rank", "admit", "terms", "describe", "close")

KEY_POLICY = "policy"

ITSELF = "pointsman itself"


class Origin(NamedTuple):
    """Package and files that a policy was loaded from."""

    package: str
    version: str
    files: tuple[tuple[str, int], ...]
    """Path and time of change, in ns, of each module of the package that is imported."""


class Plugin(NamedTuple):
    """A policy of another package."""

    policy: type[Policy]
    origin: Origin


class ReloadState(StrEnum):
    """Outcome of a look at one entry point."""

    LOADED = "loaded"
    """The policy is new, and may be put live."""
    UNCHANGED = "unchanged"
    NEEDS_RESTART = "needs_restart"
    """The installed package differs from the one that this process has imported."""
    FAILED = "failed"
    """The policy does not load, or is none."""


class Reloaded(NamedTuple):
    """One entry point after a look at what is installed."""

    name: str
    package: str
    version: str
    """Of what is installed; empty where the package is gone."""
    state: ReloadState
    detail: str = ""


def load_plugins(names: Iterable[str]) -> dict[str, Plugin]:
    """All policies that other packages offer. `names` are those of policies that ship with Pointsman.

    Raises PolicyPluginError for an entry point that takes a name already taken, fails to import or is no policy: to
    start without a policy somebody installed would be to route by another.
    """
    plugins: dict[str, Plugin] = {}
    offered_by = dict.fromkeys(names, ITSELF)
    for entry in entry_points(group=ENTRY_POINTS):
        if entry.name in offered_by:
            raise PolicyPluginError(f"{_where(entry)}: the name is taken by {offered_by[entry.name]}")
        plugins[entry.name] = _load(entry)
        offered_by[entry.name] = _where(entry)
    return plugins


def reload_plugins(names: Iterable[str], known: Mapping[str, Plugin]) -> tuple[dict[str, Plugin], list[Reloaded]]:
    """Look at what is installed, and load what is new; the policies as they are then, and a line for each.

    names: those of policies that ship with Pointsman. known: what was loaded before, all of which stays.
    """
    importlib.invalidate_caches()
    plugins, lines, seen = dict(known), list[Reloaded](), set[str]()
    offered_by = dict.fromkeys(names, ITSELF)
    for entry in entry_points(group=ENTRY_POINTS):
        if entry.name in offered_by:
            detail = f"the name is taken by {offered_by[entry.name]}"
            lines.append(Reloaded(entry.name, _package(entry), _version(entry), ReloadState.FAILED, detail))
            continue
        offered_by[entry.name] = _where(entry)
        seen.add(entry.name)
        before = plugins.get(entry.name)
        if before is not None:
            state, detail = _compare(entry, before.origin)
        elif stale := _stale(entry, known):
            state, detail = ReloadState.NEEDS_RESTART, stale
        else:
            state, detail = ReloadState.LOADED, ""
            try:
                plugins[entry.name] = _load(entry)
            except PolicyPluginError as error:
                state, detail = ReloadState.FAILED, str(error)
                cause = error.__cause__
                if isinstance(cause, ModuleNotFoundError) and cause.name == entry.module.partition(".")[0]:
                    state = ReloadState.NEEDS_RESTART
                    detail = f"{cause.name} cannot be found by this process, as after an install from its sources (-e)"
        lines.append(Reloaded(entry.name, _package(entry), _version(entry), state, detail))
    for name, plugin in known.items():
        if name not in seen:
            detail = "the package offers it no more; it stays until the router is restarted"
            lines.append(Reloaded(name, plugin.origin.package, "", ReloadState.NEEDS_RESTART, detail))
    return plugins, sorted(lines)


def _compare(entry: EntryPoint, origin: Origin) -> tuple[ReloadState, str]:
    """Whether what is installed is what was loaded."""
    if _version(entry) != origin.version:
        return ReloadState.NEEDS_RESTART, f"version {origin.version} was loaded"
    if changed := _changed(origin):
        return ReloadState.NEEDS_RESTART, f"{changed} changed since it was loaded"
    return ReloadState.UNCHANGED, ""


def _stale(entry: EntryPoint, known: Mapping[str, Plugin]) -> str:
    """Why a policy cannot be loaded beside what is imported of its package; empty where it can."""
    for plugin in known.values():
        origin = plugin.origin
        if origin.package == _package(entry):
            if origin.version != _version(entry):
                return f"version {origin.version} of the package is imported already"
            if changed := _changed(origin):
                return f"{changed} of the package changed since it was imported"
    module = sys.modules.get(entry.module)
    if module is not None and not hasattr(module, entry.attr.partition(".")[0]):
        return f"{entry.module} is imported already, without {entry.attr}"
    return ""


def _changed(origin: Origin) -> str:
    """The first file that is not what it was; empty where all are."""
    return next((path for path, changed_ns in origin.files if _changed_ns(path) != changed_ns), "")


def _changed_ns(path: str) -> int:
    try:
        return Path(path).stat().st_mtime_ns
    except OSError:
        return 0


def _load(entry: EntryPoint) -> Plugin:
    where = _where(entry)
    try:
        policy = entry.load()
    except Exception as error:  # a module of others may raise anything when it is imported
        raise PolicyPluginError(f"{where}: {entry.value} does not load: {error}") from error
    if not isinstance(policy, type):
        raise PolicyPluginError(f"{where}: {entry.value} is not a class")
    missing = [name for name in METHODS if not callable(getattr(policy, name, None))]
    if missing:
        raise PolicyPluginError(f"{where}: {entry.value} has no {', '.join(missing)}")
    if getattr(policy, "name", None) != entry.name:
        raise PolicyPluginError(f"{where}: {entry.value}.name is {getattr(policy, 'name', None)!r}")
    config = getattr(policy, "Config", None)
    if not (isinstance(config, type) and issubclass(config, PolicyConfig)):
        raise PolicyPluginError(f"{where}: {entry.value}.Config is no PolicyConfig")
    for key, what in ((KEY_POLICY, "the key that names the policy"), (KEY_MODELS, "the key of policies by model")):
        if key in config.__struct_fields__:
            raise PolicyPluginError(f"{where}: {config.__name__} has a field {key!r}, {what}")
    return Plugin(policy, Origin(_package(entry), _version(entry), _files(entry)))


def _files(entry: EntryPoint) -> tuple[tuple[str, int], ...]:
    """The files of a package that are imported."""
    top = entry.module.partition(".")[0]
    paths = {
        str(path)
        for name, module in list(sys.modules.items())
        if (name == top or name.startswith(f"{top}.")) and (path := getattr(module, "__file__", None))
    }
    return tuple((path, _changed_ns(path)) for path in sorted(paths))


def _where(entry: EntryPoint) -> str:
    return f"entry point {entry.name!r} of {entry.dist.name if entry.dist else 'an unknown package'}"


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else ""


def _version(entry: EntryPoint) -> str:
    return entry.dist.version if entry.dist else ""
