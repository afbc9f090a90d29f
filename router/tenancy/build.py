"""Construction of what an edge knows about who shares the fleet."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from pointsman.router.documents.book import Book
from pointsman.router.tenancy.keys import KeyTable
from pointsman.router.tenancy.limits import Limits
from pointsman.router.tenancy.tenants import TenantTable
from pointsman.router.tenancy.usage import UsageLedger


class Tenancy(NamedTuple):
    """Documents of one edge, and what they say about tenants and keys."""

    book: Book
    tenants: TenantTable
    keys: KeyTable
    limits: Limits
    ledger: UsageLedger
    """What was used."""


def build_tenancy(wall: Callable[[], float]) -> Tenancy:
    """Build an empty book and its readers. wall: seconds since 1970."""
    book, ledger = Book(), UsageLedger()
    tenants = TenantTable(book)
    keys = KeyTable(book, tenants, wall)
    return Tenancy(book, tenants, keys, Limits(tenants, keys, wall, spent_since=ledger.tokens_of), ledger)
