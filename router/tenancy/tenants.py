"""Tenants by name, as their documents describe them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import msgspec

from pointsman.router.documents.book import Book
from pointsman.router.tenancy.records import DocumentError, Tenant

KIND = "tenant"


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

    def _read(self, name: str, body: dict[str, Any]) -> None:
        if body:
            tenant = msgspec.convert(body, Tenant)
            if tenant.name != name:
                raise DocumentError(f"the document {KIND}/{name} is of the tenant {tenant.name}")
            self._tenants[name] = tenant
        else:
            self._tenants.pop(name, None)
        (self.isolated.add if body.get("isolated") else self.isolated.discard)(name)
        for changed in self.on_changed:
            changed(name)


@cache
def _unnamed() -> Tenant:
    return Tenant(name="-")


def _default(name: str) -> Tenant:
    # The name is not checked: a file of keys may have tenants of any name.
    return _unnamed() if not name else msgspec.structs.replace(_unnamed(), name=name)
