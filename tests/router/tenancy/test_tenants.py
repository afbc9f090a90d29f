"""Tenants, as their documents describe them."""

import msgspec
import pytest

from pointsman.policies.request import Priority
from pointsman.router.documents.book import Book
from pointsman.router.tenancy.records import DEFAULT_WEIGHT, DocumentError
from pointsman.router.tenancy.tenants import TenantTable


def test_a_tenant_is_what_its_document_says_and_the_defaults_without_one() -> None:
    """From the moment it is written until it is removed."""
    book = Book()
    tenants = TenantTable(book)
    changed: list[str] = []
    tenants.on_changed.append(changed.append)
    assert (tenants.get("acme"), tenants.of("acme").weight) == (None, DEFAULT_WEIGHT)
    book.write("tenant/acme", {"name": "acme", "weight": 3, "limits": {"tokens_per_minute": 1000}})
    assert tenants.of("acme").weight == 3
    assert tenants.of("acme").limits.tokens_per_minute == 1000
    assert [tenant.name for tenant in tenants] == ["acme"]
    book.write("tenant/acme", {})
    assert tenants.of("acme").weight == DEFAULT_WEIGHT
    assert changed == ["acme", "acme"]


def test_content_that_describes_no_tenant_is_refused() -> None:
    """The tenant stays as it was."""
    book = Book()
    tenants = TenantTable(book)
    book.write("tenant/acme", {"name": "acme", "weight": 3})
    with pytest.raises(msgspec.ValidationError):
        book.write("tenant/acme", {"name": "acme", "weight": -3})
    with pytest.raises(DocumentError, match="tenant/acme is of the tenant other"):
        book.write("tenant/acme", {"name": "other"})
    assert tenants.of("acme").weight == 3
    assert len(tenants) == 1


@pytest.mark.parametrize(
    ("tenant", "asked", "expected"),
    [
        ("", "", Priority.NORMAL),
        ("", "low", Priority.LOW),
        ("", "Batch", Priority.BATCH),
        ("", "high", Priority.NORMAL),
        ("", "first", Priority.NORMAL),
        ("gold", "", Priority.HIGH),
        ("gold", "critical", Priority.CRITICAL),
        ("gold", "normal", Priority.NORMAL),
        ("night", "", Priority.BATCH),
        ("night", "low", Priority.BATCH),
    ],
)
def test_a_request_may_name_a_class_up_to_that_of_its_tenant(tenant: str, asked: str, expected: Priority) -> None:
    """A higher or unknown one counts as none: then it has the tenant's own."""
    book = Book()
    tenants = TenantTable(book)
    book.write("tenant/gold", {"name": "gold", "priority": "high", "max_priority": "critical", "weight": 2.0})
    book.write("tenant/night", {"name": "night", "priority": "batch", "max_priority": "batch"})
    assert tenants.class_of(tenant, asked) == expected
    assert tenants.weight_of("gold") == 2.0
    assert tenants.weight_of("unknown") == 1.0


def test_isolated_tenants_are_named() -> None:
    """While their document says so."""
    book = Book()
    tenants = TenantTable(book)
    book.write("tenant/a", {"name": "a", "isolated": True})
    book.write("tenant/b", {"name": "b"})
    assert tenants.isolated == {"a"}
    book.write("tenant/a", {"name": "a", "isolated": False})
    book.write("tenant/b", {})
    assert tenants.isolated == set()
