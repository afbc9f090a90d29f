"""`lua.pm_body` inside the real HAProxy gives, byte for byte, what its Python twins give."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest
from golden import HAPROXY, body_of, load_cases
from haproxy_fixture import Edge, running_edge

from pointsman.contract.prefix_keys import PROMPT_KEYS, prefix_keys, prompt_start
from pointsman.haproxy.body_fields import BodyFields, body_fields
from pointsman.haproxy.body_model import BodyModel, body_model
from pointsman.policies.request import Naming
from pointsman.router.decide.features import GENERATES_NOTHING, NAMING_SHIFT

pytestmark = pytest.mark.e2e

FIELDS, KEYS, FIELDS_WITHOUT_SESSION, MODELS = 1, 2, 4, 8
WINDOW = 384 * 1024
"""Above the 320 KiB the table of chunks reaches."""

SEED = 20261123
FUZZED = 400


def packed(
    body: bytes,
    needs: int = FIELDS | KEYS,
    *,
    wants_session: bool = True,
    announced: int | None = -1,
) -> bytes:
    """What the fetch must say of `body`, the part it sees of one that was announced to be so long: as it is, unless
    given; None where it was not."""
    asks_fields = needs & (FIELDS | KEYS) or (needs & FIELDS_WITHOUT_SESSION and wants_session)
    (model, naming), (session, max_tokens, salt) = BodyModel(b"", Naming.NAMED), BodyFields()
    if asks_fields:
        length = len(body) if announced == -1 else announced
        model, naming = body_model(body, prompt_start(body), announced=length)
        session, max_tokens, salt = body_fields(body, wants_session=wants_session, wants_salt=bool(needs & KEYS))
    keys = prefix_keys(body) if needs & KEYS else ()
    first = len(model) | naming << NAMING_SHIFT
    head = struct.pack(
        f"<H{len(model)}sH{len(session)}sIIQ", first, model, len(session), session, max_tokens, len(body), salt
    )
    return head + struct.pack(f"<{len(keys)}Q", *keys)


async def digest(edge: Edge, body: bytes, *headers: tuple[str, str]) -> bytes | None:
    """What the router was sent of `body`; None when it was asked without the body."""
    assert (await edge.ask(body=body, headers=headers)).status == 200
    said: bytes | None = edge.router.asked[-1].get("body")
    return said


async def test_golden_bodies_both_twins(tmp_path: Path) -> None:
    """Every golden body, through SPOE: same fields, same keys."""
    async with running_edge(tmp_path, replicas=1, body_window_bytes=WINDOW, body_needs=FIELDS | KEYS) as edge:
        for name in ("prefix_keys.json", "body_fields.json"):
            for case, values in load_cases(HAPROXY / name).items():
                body = body_of(values)
                assert await digest(edge, body) == packed(body), f"{name}: {case}"


@pytest.mark.parametrize("lookup", ["spoe", "lua"])
async def test_random_bodies(tmp_path: Path, lookup: str) -> None:
    """Random bytes, random JSON-like pieces, cut anywhere: both sides agree, and neither ever fails."""
    rng = random.Random(SEED)
    pieces = [
        *PROMPT_KEYS,
        *(b'"model"', b'"user"', b'"session_id"', b'"prompt_cache_key"', b'"max_tokens"', b'"max_output_tokens"'),
        *(b'"cache_salt"', b'"cache_salt":"', b'"salty"'),
        *(
            b'"m\\u006fdel"',
            b'"model":"m",',
            b"\\u006d",
            b"\\/",
            b"--b\r\n",
            b"\r\n--b",
            b"\r\n\r\n",
            b"; name=model\r\n",
        ),
        *(b":", b",", b"{", b"}", b'"', b"\\", b" ", b"\n", b"12", b'"text"', b"\x00", b"\xff", b"\xc3\xa9", b"[" * 50),
    ]
    async with running_edge(tmp_path, replicas=1, lookup=lookup, body_window_bytes=WINDOW, body_needs=3) as edge:
        for number in range(FUZZED):
            body = b"".join(rng.choices(pieces, k=rng.randrange(200)))
            if number % 3 == 0:
                body += rng.randbytes(rng.randrange(20_000)) + b"".join(rng.choices(pieces, k=30))
            body = body[: rng.randrange(len(body) + 1)] if number % 5 == 0 else body
            assert await digest(edge, body) == packed(body), f"SEED={SEED} number={number}: {body[:200]!r}"


async def test_a_body_larger_than_the_window(tmp_path: Path) -> None:
    """The digest is that of the part seen, which is at least the window; the replica gets every byte."""
    async with running_edge(tmp_path, replicas=1, body_window_bytes=65536, body_needs=FIELDS | KEYS) as edge:
        body = b'{"model":"m","messages":["' + b"0123456789abcde\n" * 60_000 + b'"]}'
        said = await digest(edge, body)
        assert said is not None
        seen = seen_of(said)
        assert 65536 <= seen < len(body)
        assert said == packed(body[:seen], announced=len(body))
        assert edge.router.asked[-1]["size"] == len(body)
        assert edge.replicas["r1"].received[-1].body == body


def seen_of(said: bytes) -> int:
    """Bytes seen, out of a packet."""
    model_bytes = int.from_bytes(said[:2], "little") % GENERATES_NOTHING
    session_bytes = int.from_bytes(said[2 + model_bytes : 4 + model_bytes], "little")
    return int.from_bytes(said[8 + model_bytes + session_bytes : 12 + model_bytes + session_bytes], "little")


async def test_chunked_bodies_are_read_too(tmp_path: Path) -> None:
    """A body without a length is digested like any other."""
    async with running_edge(tmp_path, replicas=1, body_needs=FIELDS | KEYS) as edge:
        body = b'{"model":"m","messages":["' + b"x" * 3000 + b'"]}'
        chunked = (
            b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:7], body[7:900], body[900:])) + b"0\r\n\r\n"
        )
        assert (await edge.ask(body=chunked, headers=[("Transfer-Encoding", "chunked")])).status == 200
        assert edge.router.asked[-1]["body"] == packed(body, announced=None)
        assert edge.replicas["r1"].received[-1].body == body


@pytest.mark.parametrize("lookup", ["spoe", "lua"])
async def test_what_generates_nothing_has_a_model_alone(tmp_path: Path, lookup: str) -> None:
    """Where several models are served every POST asks for its model's replica, and says nothing else of its body; where
    one is, nobody asks."""
    body = b'{"input":"' + b"x" * 3000 + b'","user":"u","model":"e\\/5"}'
    async with running_edge(tmp_path, replicas=1, lookup=lookup, body_needs=FIELDS | KEYS | MODELS) as edge:
        assert (await edge.ask(target="/v1/embeddings", body=body)).status == 200
        said = edge.router.asked[-1]["body"]
        assert said == struct.pack("<H3sHIIQ", 3 | GENERATES_NOTHING, b"e/5", 0, 0, len(body), 0)
        assert (await edge.ask(target="/sleep", body=b"")).status == 200
        assert edge.router.asked[-1]["body"] == struct.pack("<HHIIQ", GENERATES_NOTHING, 0, 0, 0, 0), "names none"
        assert (await edge.ask("PUT", "/v1/embeddings", body)).status == 200
        assert len(edge.router.asked) == 2
        await edge.api.set_variable("proc.pm.body", FIELDS | KEYS)
        assert (await edge.ask(target="/v1/embeddings", body=body)).status == 200
        assert len(edge.router.asked) == 2


async def test_the_model_may_stand_in_a_header_or_be_the_paths(tmp_path: Path) -> None:
    """They count where the body does not show it, the header first; what the body names goes before both."""
    path_models = {"/v1/chat/completions": "of-the-path"}
    async with running_edge(tmp_path, replicas=1, body_needs=FIELDS, path_models=path_models) as edge:
        header = ("X-Model", "of-the-header")
        assert model_of(await digest(edge, b"{}", header)) == (b"of-the-header", 0)
        assert model_of(await digest(edge, b'{"model":"own"}', header)) == (b"own", 0)
        assert model_of(await digest(edge, b"{}")) == (b"of-the-path", 0)
        assert model_of(await digest(edge, b"{}", ("X-Model", "x" * 300))) == (b"of-the-path", 0)
        assert edge.replicas["r1"].received[0].header("x-model") == "of-the-header"


def model_of(said: bytes | None) -> tuple[bytes, int]:
    """The model out of a packet, and what stands in the bits above its length."""
    assert said is not None
    first = int.from_bytes(said[:2], "little")
    return said[2 : 2 + first % GENERATES_NOTHING], first // GENERATES_NOTHING


async def test_the_bits_decide_what_is_read(tmp_path: Path) -> None:
    """0 asks without the body; 1 fields; 2 keys; 4 fields, but only where no header names the session."""
    body = b'{"model":"m","user":"u","messages":["' + b"x" * 3000 + b'"]}'
    session = ("x-session-id", "s")
    async with running_edge(tmp_path, replicas=1) as edge:
        for needs in range(8):  # with 8 alone nothing but the model counts
            await edge.api.set_variable("proc.pm.body", needs)
            for headers in ((), (session,)):
                said = await digest(edge, body, *headers)
                if needs == 0 or (needs == FIELDS_WITHOUT_SESSION and headers):
                    assert said is None
                    assert edge.router.messages[-1] == "route"
                else:
                    assert said == packed(body, needs, wants_session=not headers)
                    assert edge.router.messages[-1] == "route-body"


async def test_no_body_at_all(tmp_path: Path) -> None:
    """A POST without a body is asked for like any other."""
    async with running_edge(tmp_path, replicas=1, body_needs=FIELDS | KEYS) as edge:
        assert await digest(edge, b"") == packed(b"")
