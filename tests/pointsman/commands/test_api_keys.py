"""`pointsman keys` and `pointsman tenants`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from drawn import assert_fits, drawn, pointsman
from telling_admin import Told, problem, telling_admin

from pointsman.commands.api_keys import key_facts, key_list, parse_expiry, parse_span, tenant_facts, tenant_list
from pointsman.errors import StartError

LIMITS = {
    "requests_per_minute": None,
    "tokens_per_minute": 100_000,
    "concurrent_requests": 8,
    "tokens_per_day": None,
    "tokens_per_month": None,
    "cached_weight": 1.0,
}
NONE = dict.fromkeys(LIMITS) | {"cached_weight": 1.0}


def key(**about: Any) -> dict[str, Any]:
    return {
        "id": "3k9w2mxf7hqp",
        "tenant": "acme",
        "state": "in-force",
        "created": "2026-11-30T12:04:31.213Z",
        "expires": None,
        "revoked": None,
        "old_secret_until": None,
        "models": [],
        "limits": LIMITS,
        "model_limits": {},
        "note": "",
    } | about


def tenant(**about: Any) -> dict[str, Any]:
    return {
        "name": "acme",
        "keys": 2,
        "weight": 3.0,
        "priority": "normal",
        "max_priority": "high",
        "limits": NONE,
        "model_limits": {},
        "isolated": False,
        "reserved_pools": [],
        "excluded_pools": [],
        "note": "",
    } | about


def test_keys_and_tenants_are_rows() -> None:
    """Columns without a value are left out."""
    text = drawn(key_list([key(), key(id="a" * 12, state="revoked", limits=NONE)]))
    assert_fits(text)
    assert text.splitlines()[0].split() == ["key", "tenant", "state", "age", "limits"]
    assert "100k tokens/min, 8 at one time" in text
    assert drawn(key_list([])) == "there are no keys\n"
    rows = drawn(tenant_list([tenant(), tenant(name="b", isolated=True)]))
    assert rows.splitlines()[0].split() == ["tenant", "keys", "weight", "priority", "isolated"]
    assert "no tenant" in drawn(tenant_list([]))


def test_one_key_and_one_tenant_are_described() -> None:
    """Limits by model too."""
    text = drawn(key_facts(key(models=["m"], model_limits={"m": LIMITS}, note="ci")))
    assert text.startswith("3k9w2mxf7hqp  in-force\n")
    assert "limits of m" in text and "ci" in text and "revoked" not in text
    text = drawn(tenant_facts(tenant(limits=LIMITS | {"cached_weight": 0.1})))
    assert "normal, up to high" in text and "count 0.1" in text


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("15 min", 900), ("12h", 43_200), ("1.5d", 129_600)])
def test_durations_are_read(text: str, seconds: float) -> None:
    """With their unit."""
    assert parse_span(text, "--grace") == seconds


def test_an_expiry_is_a_duration_or_a_time_with_its_offset() -> None:
    """What is neither is refused with both forms."""
    now = datetime(2026, 11, 30, tzinfo=UTC)
    assert parse_expiry("", now) is None
    assert parse_expiry("1d", now) == "2026-12-01T00:00:00+00:00"
    assert parse_expiry("2027-01-31T00:00:00Z", now) == "2027-01-31T00:00:00+00:00"
    for wrong in ("tomorrow", "2027-01-31", "2027-01-31T00:00:00"):
        with pytest.raises(StartError, match="--expires"):
            parse_expiry(wrong, now)
    with pytest.raises(StartError, match="--grace"):
        parse_span("12", "--grace")


def test_a_secret_is_alone_on_standard_output() -> None:
    """A script takes it from there; with --json it is the API's own answer."""
    secret = key(key="pmk-3k9w2mxf7hqp-s", required=False)
    with telling_admin({"POST /v1/keys": Told(secret, 201)}) as admin:
        words = ("keys", "create", "--tenant", "acme", "--tokens-per-minute", "100000", "--model", "m", "--admin")
        done = pointsman(*words, admin.url)
        assert done.stdout == "pmk-3k9w2mxf7hqp-s\n"
        assert "shown this once" in done.stderr and "--require-keys" in done.stderr
        body = admin.asked[-1].body
        assert body["tenant"] == "acme" and body["limits"] == {"tokens_per_minute": 100_000} and body["models"] == ["m"]
        assert '"key":' in pointsman(*words, admin.url, "--json").stdout.replace(" ", "")


def test_a_key_is_rotated_and_revoked_by_its_id() -> None:
    """Grace is sent in seconds."""
    answers = {
        "POST /v1/keys/3k9w2mxf7hqp/rotate": key(key="s", required=True, old_secret_until="2026-12-01T00:00:00Z"),
        "DELETE /v1/keys/3k9w2mxf7hqp": Told(None, 204),
        "DELETE /v1/keys/x": problem(404, "key 'x' is not known"),
    }
    with telling_admin(answers) as admin:
        done = pointsman("keys", "rotate", "3k9w2mxf7hqp", "--grace", "12h", "--admin", admin.url)
        assert admin.asked[-1].body == {"grace_s": 43_200.0}
        assert done.stdout == "s\n" and "old secret" in done.stderr and "--require-keys" not in done.stderr
        assert "is revoked" in pointsman("keys", "revoke", "3k9w2mxf7hqp", "--admin", admin.url).stdout
        assert pointsman("keys", "revoke", "x", "--admin", admin.url).exit_code == 1


def test_setting_a_tenant_leaves_what_is_not_given() -> None:
    """-1 takes a limit away; the version of what was read is demanded."""
    answers = {"GET /v1/tenants/acme": tenant(limits=LIMITS, note="old"), "PUT /v1/tenants/acme": tenant()}
    with telling_admin(answers) as admin:
        words = ("--weight", "2", "--tokens-per-minute", "-1", "--requests-per-minute", "60", "--admin", admin.url)
        assert pointsman("tenants", "set", "acme", *words).exit_code == 0
        body = admin.asked[-1].body
        assert (body["weight"], body["note"], body["max_priority"]) == (2, "old", "high")
        assert body["limits"]["tokens_per_minute"] is None
        assert (body["limits"]["requests_per_minute"], body["limits"]["concurrent_requests"]) == (60, 8)
        assert "name" not in body and "keys" not in body
