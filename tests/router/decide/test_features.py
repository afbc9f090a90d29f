"""Features: what a lookup says about its request, however odd."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.policies.request import Naming
from pointsman.router.decide.features import (
    BYTES_PER_TOKEN,
    DEFAULT_OUTPUT_TOKENS,
    GENERATES_NOTHING,
    MAX_PREFIX_KEYS,
    MAX_SESSION_BYTES,
    NAMING_SHIFT,
    BodyFields,
    expected_tokens,
    extract,
    unpack_body,
)


def pack(
    model: bytes = b"",
    session: bytes = b"",
    max_tokens: int = 0,
    seen: int = 0,
    keys: tuple[int, ...] = (),
    salt: int = 0,
) -> bytes:
    """What `lua.pm_body` sends."""
    return (
        struct.pack("<H", len(model)) + model + struct.pack("<H", len(session)) + session
        + struct.pack("<IIQ", max_tokens, seen, salt) + struct.pack(f"<{len(keys)}Q", *keys)
    )  # fmt: skip


def test_a_whole_packet_is_read() -> None:
    """All six parts of the body packet arrive."""
    packed = pack(b"qwen", b"s-1", 64, 2000, (1, 2**64 - 1), 5)
    assert unpack_body(packed) == BodyFields("qwen", "s-1", 64, 2000, 5, (1, 2**64 - 1))


def test_the_upper_bits_of_the_first_length_are_read() -> None:
    """How the model is known, and whether anything is generated; a naming that is not known is not seen."""
    plain = pack(b"qwen", b"s-1", 64, 2000, (7,), 5)
    length = int.from_bytes(plain[:2], "little")
    for bits, naming in enumerate((Naming.NAMED, Naming.ABSENT, Naming.UNSEEN, Naming.UNSEEN)):
        for nothing in (0, GENERATES_NOTHING):
            first = struct.pack("<H", length | bits << NAMING_SHIFT | nothing)
            wanted = unpack_body(plain)._replace(naming=naming, generates=not nothing)
            assert unpack_body(first + plain[2:]) == wanted


def test_a_model_that_is_not_shown_is_asked_for() -> None:
    """By session and by how it is known; what is told counts as named, and scopes the keys."""
    asked: list[tuple[str, Naming]] = []

    def recall(session: str, naming: Naming) -> str | None:
        asked.append((session, naming))
        return {"s": "qwen"}.get(session)

    unseen = pack(b"", b"", keys=(7,))
    unseen = struct.pack("<H", Naming.UNSEEN << NAMING_SHIFT) + unseen[2:]
    told = extract({"body": unseen, "session": "s"}, recall=recall)
    assert (told.model, told.naming) == ("qwen", Naming.NAMED)
    assert told.prefix_keys == extract({"body": pack(b"qwen", keys=(7,))}, recall=recall).prefix_keys
    unknown = extract({"body": unseen}, recall=recall)
    assert (unknown.model, unknown.naming) == ("", Naming.UNSEEN)
    assert asked == [("s", Naming.UNSEEN), ("", Naming.UNSEEN)], "a name that was read is not asked for"


def test_an_uploaded_file_is_no_prompt() -> None:
    """A request that generates nothing counts what was seen of it, and no answer."""
    packed = struct.pack("<H", 1 | GENERATES_NOTHING) + pack(b"w", seen=4000)[2:]
    assert expected_tokens(extract({"body": packed, "size": 25_000_000})) == 1000


def test_a_cut_packet_yields_what_precedes_the_cut() -> None:
    """Cut at every byte, no value is invented: each field is right or absent."""
    whole = pack(b"qwen", b"s-1", 64, 2000, (7, 8))
    full = unpack_body(whole)
    for end in range(len(whole)):
        fields = unpack_body(whole[:end])
        for name in BodyFields._fields:
            got, wanted = getattr(fields, name), getattr(full, name)
            assert got == wanted or got in ("", 0) or got == wanted[: len(got)], (end, name)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_packet(packed: bytes) -> None:
    """Nothing a peer sends as body raises."""
    unpack_body(packed)


@given(
    st.dictionaries(
        st.sampled_from(["id", "path", "session", "tenant", "size", "policy", "body", "other"]),
        st.one_of(st.none(), st.booleans(), st.integers(), st.binary(max_size=400), st.text(max_size=40)),
    )
)
def test_any_arguments_give_features(arguments: dict[str, object]) -> None:
    """Missing, odd and mistyped arguments are absent features, never an error."""
    features = extract(arguments)
    assert features.body_bytes >= 0
    assert len(features.session) <= MAX_SESSION_BYTES


def test_a_header_session_goes_before_the_body_session() -> None:
    """The client that names its session in a header means that one."""
    packed = pack(session=b"from-body")
    assert extract({"session": b"from-header", "body": packed}).session == "from-header"
    assert extract({"session": None, "body": packed}).session == "from-body"


def test_a_session_that_is_not_utf8_still_distinguishes() -> None:
    """Two different byte strings stay two different keys."""
    assert extract({"session": b"\xff\xfe"}).session != extract({"session": b"\xff\xfd"}).session


def test_long_values_are_cut_to_their_limit() -> None:
    """A session key of a megabyte costs 256 bytes of table."""
    assert len(extract({"session": b"x" * 1_000_000}).session) == MAX_SESSION_BYTES
    many = pack(keys=tuple(range(MAX_PREFIX_KEYS + 5)))
    assert len(unpack_body(many).prefix_keys) == MAX_PREFIX_KEYS


@pytest.mark.parametrize(
    ("arguments", "body_bytes"),
    [
        pytest.param({"size": 2000}, 2000, id="announced"),
        pytest.param({"size": 0, "body": pack(seen=900)}, 900, id="chunked, so what was seen"),
        pytest.param({"size": -1}, 0, id="negative"),
        pytest.param({"size": True}, 0, id="not a number"),
        pytest.param({}, 0, id="absent"),
    ],
)
def test_body_size_is_announced_or_seen(arguments: dict[str, object], body_bytes: int) -> None:
    """The announced length counts; without one, what HAProxy saw."""
    assert extract(arguments).body_bytes == body_bytes


def test_expected_tokens_add_prompt_and_output() -> None:
    """2,000 bytes at 4 a token are 500, plus the bound on output or its default."""
    assert BYTES_PER_TOKEN == 4
    assert expected_tokens(extract({"size": 2000, "body": pack(max_tokens=64)})) == 564
    assert expected_tokens(extract({"size": 2000})) == 500 + DEFAULT_OUTPUT_TOKENS


def test_keys_are_scoped_by_model_and_salt() -> None:
    """The same bytes below another model, adapter or salt are other keys; the replica is told by which scope."""
    found = [
        extract({"body": pack(model, keys=(7, 8), salt=salt)})
        for model, salt in ((b"a", 0), (b"b", 0), (b"a", 5), (b"b", 5), (b"", 0))
    ]
    assert len({key for features in found for key in features.prefix_keys}) == 10
    assert found[-1].prefix_keys == (7, 8)
    assert int(found[-1].scope, 16) == 0
    for features in found:
        scope = int(features.scope, 16)
        assert tuple(key ^ scope for key in features.prefix_keys) == (7, 8)
        assert len(features.scope) == 16
    assert extract({"body": pack(b"a")}).scope == ""


def test_tenants_are_kept_apart_if_asked_for() -> None:
    """Off, they share what they prompt; on, each has keys of its own, and the replica learns the tenant."""
    asked = {"body": pack(b"a", keys=(7,)), "tenant": "acme"}
    assert extract(asked).prefix_keys == extract(asked | {"tenant": "other"}).prefix_keys
    kept = extract(asked, isolate_tenants=True)
    assert kept.prefix_keys != extract(asked | {"tenant": "other"}, isolate_tenants=True).prefix_keys
    assert kept.scope.endswith(" acme")
    assert extract({"body": pack(b"a", keys=(7,))}, isolate_tenants=True).scope == extract(asked).scope


def test_one_tenant_may_be_kept_apart_from_the_others() -> None:
    """Its keys and sessions are its own; those of the others are shared."""
    asked = {"body": pack(b"a", session=b"s", keys=(7,))}
    apart, one, other = (extract(asked | {"tenant": tenant}, isolated={"acme"}) for tenant in ("acme", "b", "c"))
    assert one.prefix_keys == other.prefix_keys != apart.prefix_keys
    assert one.session == other.session == "s" != apart.session
    assert (apart.scope.endswith(" acme"), " " in one.scope) == (True, False)
    assert apart == extract(asked | {"tenant": "acme"}, isolate_tenants=True)


def test_a_session_id_is_a_tenants_own_if_asked_for() -> None:
    """Another tenant that sends the same id has another session; without isolation, or tenants, it is the same one."""
    named = {"session": b"s", "tenant": b"acme"}
    in_body = {"body": pack(session=b"s"), "tenant": b"acme"}
    sessions = {
        extract(arguments | {"tenant": tenant}, isolate_tenants=True).session
        for arguments in (named, in_body)
        for tenant in (b"acme", b"other", b"ac")
    }
    assert len(sessions) == 3
    assert extract(named).session == extract({"session": b"s"}, isolate_tenants=True).session == "s"
    assert extract({"tenant": b"acme"}, isolate_tenants=True).session == ""
