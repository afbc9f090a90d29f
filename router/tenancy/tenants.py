"""Tenants by name, as their documents describe them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from pointsman.policies.request import NORMAL, Priority
from pointsman.router.documents.book import Book
from pointsman.router.tenancy.records import DEFAULT_WEIGHT, Tenant, read_document

KIND = "tenant"

_CLASSES = {priority.label: int(priority) for priority in Priority}


class TenantTable:
    """Tenants that have a document. Any other has the defaults."""

    def __init__(self, book: Book) -> None:
        self._tenants: dict[str, Tenant] = {}
        self.isolated: set[str] = set()
        """Names of those that are isolated; to be read only."""
        self.on_changed: list[Callable[[str], None]] = []
        """Called with the name of a tenant whose document changed, once the table has the change."""
        book.read_by(KIND, self._read)

    def __len__(self) -> int:
        return len(self._tenants)

    def __iter__(self) -> Iterator[Tenant]:
        return iter(self._tenants.values())

    def get(self, name: str) -> Tenant | None:
        """The tenant of a name; None for one without a document."""
        return self._tenants.get(name)

    def of(self, name: str) -> Tenant:
        """The tenant of a name, with the defaults where it has no document."""
        found = self._tenants.get(name)
        return _default(name) if found is None else found

    def weight_of(self, name: str) -> float:
        """The weight of a tenant."""
        found = self._tenants.get(name)
        return DEFAULT_WEIGHT if found is None else found.weight

    def class_of(self, name: str, asked: str) -> int:
        """The priority class of a tenant's request.

        asked: name of the class that the request names; empty, unknown or higher than the tenant may name: its own.
        """
        found = self._tenants.get(name)
        own = NORMAL if found is None else _CLASSES[found.priority]
        if not asked:
            return own
        highest = NORMAL if found is None else _CLASSES[found.max_priority]
        named = _CLASSES.get(asked.lower())
        return own if named is None or named > max(own, highest) else named

    def _read(self, name: str, body: dict[str, Any]) -> None:
        if body:
            self._tenants[name] = read_document(KIND, name, body, Tenant)
        else:
            self._tenants.pop(name, None)
        (self.isolated.add if body.get("isolated") else self.isolated.discard)(name)
        for changed in self.on_changed:
            changed(name)


_UNNAMED = Tenant(name="-")


def _default(name: str) -> Tenant:
    # The name is not checked: a file of keys may have tenants of any name.
    return msgspec.structs.replace(_UNNAMED, name=name) if name else _UNNAMED
