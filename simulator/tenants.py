"""Tenants of a simulated fleet: their settings from a file, and the traces of those that are kept apart.

A file has the settings of `PUT /v1/tenants/NAME` by tenant, under `tenants`, or is what `pointsman tenants list --json`
prints. `TenantSet` is one such file; each simulated router gets its documents.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import msgspec

from pointsman.contract.config import decode, read_mapping
from pointsman.router.documents.book import Book
from pointsman.router.fronts.api.key_types import TenantSettings
from pointsman.router.tenancy.records import TENANT_PATTERN, Tenant
from pointsman.router.tenancy.tenants import KIND
from pointsman.simulator.errors import ExperimentError
from pointsman.simulator.trace import Session, Trace, Turn

KEY = "tenants"

KEY_MORE = "next"
"""Key of a list that goes on."""

SHOWN_ALONE = ("name", "keys")
"""Fields that the list of tenants shows besides their settings."""

_APART_FROM = 1 << 61
"""Blocks of tenants that are kept apart are numbered from here; the traces' own unnamed ones lie above."""


class TenantSet(msgspec.Struct, frozen=True):
    """Tenants that have settings; any other tenant has the defaults."""

    name: str = ""
    """Name of the set, to tell several apart."""
    tenants: tuple[Tenant, ...] = ()

    @property
    def isolated(self) -> frozenset[str]:
        """Names of the tenants whose prefixes and sessions are kept apart."""
        return frozenset(tenant.name for tenant in self.tenants if tenant.isolated)

    def write(self, book: Book) -> None:
        """Writes the settings into a router's documents."""
        for tenant in self.tenants:
            book.write(f"{KIND}/{tenant.name}", msgspec.to_builtins(tenant))

    def check_pools(self, pools: Sequence[str]) -> None:
        """Raises ExperimentError for a pool that is reserved or excluded and has no replica."""
        for tenant in self.tenants:
            for field in ("reserved_pools", "excluded_pools"):
                for pool in getattr(tenant, field):
                    if pool not in pools:
                        known = ", ".join(sorted(set(pools) - {""})) or "a pool of --pools, which names none"
                        raise ExperimentError(f"{KEY}.{tenant.name}.{field}", pool, f"one of {known}", source=self.name)


NO_TENANTS = TenantSet()


def read_tenants(path: Path, source: str = "--tenants") -> TenantSet:
    """The tenants in a YAML or JSON file. Raises ExperimentError that names the file and the key.

    source: flag that names the file.
    """
    source = f"{source}: {path}"
    document = read_mapping(path, source, error=ExperimentError)
    if document.get(KEY_MORE):
        raise ExperimentError(
            KEY_MORE, document[KEY_MORE], "a whole list", "more tenants follow on its next page", source
        )
    unknown = sorted(document.keys() - {KEY, KEY_MORE})
    if unknown:
        raise ExperimentError(unknown[0], document[unknown[0]], KEY, "unknown key", source)
    found = document.get(KEY)
    if isinstance(found, list):
        found = _by_name(found, source)
    if not isinstance(found, dict):
        raise ExperimentError(KEY, found, "the settings of tenants by their names", source=source)
    return TenantSet(path.stem, tuple(_tenant(name, given, source) for name, given in found.items()))


def _by_name(listed: list[Any], source: str) -> dict[str, Any]:
    """Settings by name out of a list as the API answers it."""
    found: dict[str, Any] = {}
    for number, one in enumerate(listed):
        if not isinstance(one, dict) or not isinstance(one.get("name"), str):
            raise ExperimentError(f"{KEY}[{number}]", one, "a tenant with its name", source=source)
        found[one["name"]] = {key: value for key, value in one.items() if key not in SHOWN_ALONE}
    return found


def _tenant(name: Any, given: Any, source: str) -> Tenant:
    if not isinstance(name, str) or re.fullmatch(TENANT_PATTERN, name) is None:
        raise ExperimentError(KEY, name, "names of 1 to 64 letters, digits and . _ -", source=source)
    settings = decode(
        {} if given is None else given, TenantSettings, at=f"{KEY}.{name}", source=source, error=ExperimentError
    )
    return msgspec.convert({**msgspec.to_builtins(settings), "name": name}, Tenant)


def kept_apart(trace: Trace, isolated: frozenset[str]) -> Trace:
    """The trace in which no other tenant shares a block or a session with those that are isolated."""
    if not isolated:
        return trace
    names, numbers = count(_APART_FROM), dict[tuple[str, int], int]()
    lists: dict[tuple[str, int], list[int]] = {}

    def own(tenant: str, blocks: Sequence[int]) -> list[int]:
        found = lists.get((tenant, id(blocks)))
        if found is None:
            found = lists[tenant, id(blocks)] = []
            for block in blocks:
                number = numbers.get((tenant, block))
                if number is None:
                    number = numbers[tenant, block] = next(names)
                found.append(number)
        return found

    def apart(session: Session) -> Session:
        if session.tenant not in isolated:
            return session
        turns = tuple(
            Turn(turn.prompt_tokens, turn.output_tokens, turn.pause_s, own(session.tenant, turn.blocks))
            for turn in session.turns
        )
        return replace(session, id=session.id and f"{session.tenant}/{session.id}", turns=turns)

    return replace(trace, sessions=tuple(map(apart, trace.sessions)))
