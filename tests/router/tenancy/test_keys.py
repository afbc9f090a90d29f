"""API keys: which secrets are in force, and what HAProxy is to know."""

import hashlib
import re
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from pointsman.haproxy.api_keys import hash_of
from pointsman.router.documents.book import Book
from pointsman.router.tenancy.keys import KeyTable, new_id, new_secret
from pointsman.router.tenancy.records import KEY_ID_PATTERN, ApiKey, DocumentError
from pointsman.router.tenancy.tenants import TenantTable


class Desk:
    """A table of keys, a book to write in and a clock to set."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.book = Book()
        self.table = KeyTable(self.book, TenantTable(self.book), wall=lambda: self.now_s)

    def put(self, number: int = 1, **given: Any) -> ApiKey:
        key = ApiKey(
            id=f"{number:012d}", tenant=given.pop("tenant", "acme"), hash=f"{number:064x}", created_s=0.0, **given
        )
        self.write(key)
        return key

    def write(self, key: ApiKey) -> None:
        self.book.write(f"key/{key.id}", msgspec.to_builtins(key))

    def remove(self, key: ApiKey) -> None:
        self.book.write(f"key/{key.id}", {})


def test_a_secret_begins_with_its_id_and_is_hashed_as_haproxy_does() -> None:
    """SHA-256 of its bytes, in hexadecimal digits; two are never alike."""
    key_id = new_id()
    secret, other = new_secret(key_id), new_secret(key_id)
    assert secret.key.startswith(f"pmk-{key_id}-")
    assert secret.hash == hashlib.sha256(secret.key.encode()).hexdigest() == hash_of(secret.key)
    assert secret != other
    assert re.fullmatch(KEY_ID_PATTERN, key_id)


def test_a_key_is_in_the_map_from_its_creation_to_its_revocation() -> None:
    """With its tenant and its id; each change is told once."""
    desk = Desk()
    key = desk.put(7)
    assert desk.table.owners == {key.hash: "acme/000000000007"}
    assert desk.table.find(key.hash) == key
    assert desk.table.take_changes() == {key.hash: "acme/000000000007"}
    assert desk.table.take_changes() == {}
    desk.write(replace(key, revoked_s=1000.0))
    assert desk.table.owners == {}
    assert desk.table.take_changes() == {key.hash: None}
    assert desk.table.get(key.id) is not None
    assert desk.table.find(key.hash) is None


def test_a_key_ends_when_it_expires_without_anybody_writing_it() -> None:
    """At the next step after its time; the table says when that is."""
    desk = Desk()
    key, changed = desk.put(1, expires_s=1010.0), []
    desk.table.on_changed.append(changed.append)
    assert desk.table.next_end_s == 1010.0
    desk.now_s = 1009.0
    desk.table.step()
    assert desk.table.owners
    desk.now_s = 1010.0
    desk.table.step()
    assert (desk.table.owners, changed, desk.table.next_end_s) == ({}, [key.id], None)


def test_a_longer_life_given_later_counts() -> None:
    """The old time passes without effect."""
    desk = Desk()
    key = desk.put(1, expires_s=1010.0)
    desk.write(replace(key, expires_s=1020.0))
    desk.now_s = 1015.0
    desk.table.step()
    assert list(desk.table.owners) == [key.hash]
    assert desk.table.next_end_s == 1020.0


def test_a_rotated_key_has_both_secrets_for_its_grace() -> None:
    """Then the new one alone; without grace the old one ends at once."""
    desk = Desk()
    key = desk.put(1)
    rotated = replace(key, hash="a" * 64, previous_hash=key.hash, previous_until_s=1005.0)
    desk.write(rotated)
    assert set(desk.table.owners) == {key.hash, "a" * 64}
    desk.now_s = 1005.0
    desk.table.step()
    assert set(desk.table.owners) == {"a" * 64}
    desk.write(replace(rotated, hash="b" * 64, previous_hash="a" * 64, previous_until_s=1005.0))
    assert set(desk.table.owners) == {"b" * 64}


def test_a_removed_key_leaves_nothing() -> None:
    """Neither of its secrets."""
    desk = Desk()
    key = desk.put(1, previous_hash="c" * 64, previous_until_s=2000.0)
    desk.remove(key)
    assert (len(desk.table), desk.table.owners) == (0, {})
    assert desk.table.take_changes() == {key.hash: None, "c" * 64: None}


def test_a_document_of_another_key_is_refused() -> None:
    """The name says which key it is."""
    desk = Desk()
    with pytest.raises(DocumentError, match="key/x is of the key 000000000001"):
        desk.book.write("key/x", {"id": "000000000001", "tenant": "acme", "hash": "0" * 64, "created_s": 0})


def test_haproxy_is_told_whose_tenant_is_isolated() -> None:
    """Of keys that are there already, too; choosing alone, it keeps such a tenant apart."""
    desk = Desk()
    key = desk.put(1)
    desk.table.take_changes()
    desk.book.write("tenant/acme", {"name": "acme", "isolated": True})
    later = desk.put(2)
    assert desk.table.take_changes() == {key.hash: "acme/000000000001/i", later.hash: "acme/000000000002/i"}
    assert desk.table.find(key.hash) == key
    desk.book.write("tenant/acme", {"name": "acme", "weight": 2})
    assert set(desk.table.owners.values()) == {"acme/000000000001", "acme/000000000002"}
