"""The prefill request: what goes out, what comes back, and what happens when it does not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.contract.events import Handoffs
from pointsman.contract.prefix_keys import MAX_KEYS
from pointsman.engine.disaggregation import (
    PARAMS,
    PREFILL_KEYS_HEADER,
    HandoffOutcome,
    Peer,
    Prefiller,
    PrefillRequest,
    carries_transfer_params,
    pack_prefix,
    parse_peer,
    prefill_body,
    prefill_headers,
    unpack_prefix,
)

PREFILL = PrefillRequest(request_id="r1", model="m", prompt_token_ids=[1, 2, 3])

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


class TestPeers:
    """Where a prefill request may go: literal addresses, since routers resolve and an engine should not."""

    @pytest.mark.parametrize("text", ["10.0.0.1:8000", "127.0.0.1:1", "[::1]:8000", "[fd00::7]:65535"])
    def test_an_address_is_read_and_written_alike(self, text: str) -> None:
        """The form HAProxy's header has."""
        assert str(parse_peer(text)) == text

    @pytest.mark.parametrize(
        "text",
        ["", "10.0.0.1", "10.0.0.1:", ":80", "10.0.0.1:0", "10.0.0.1:65536", "10.0.0.1:-1", "10.0.0.1:8\u00b2",
         "::1:80", "[10.0.0.1]:80", "localhost:80", "10.0.0.1:80/path", "user@10.0.0.1:80", "10.0.0.1:80 ",
         "[fe80::1%eth0]:80", "10.0.0.1:80\r\nx: y", "[::1:80", "2130706433:80"],
    )  # fmt: skip
    def test_anything_else_is_nowhere(self, text: str) -> None:
        """No names, no paths, no credentials, no second line."""
        assert parse_peer(text) is None

    @given(st.text(max_size=40))
    def test_whatever_comes_is_judged(self, text: str) -> None:
        """A peer or None, and a peer reads back as itself."""
        peer = parse_peer(text)
        assert peer is None or parse_peer(str(peer)) == peer


class TestWhatClientsMayNotSend:
    """`kv_transfer_params` in a client's body would make an engine connect where the client says."""

    @pytest.mark.parametrize(
        ("body", "carries"),
        [
            pytest.param(b'{"kv_transfer_params":{"do_remote_prefill":true}}', True, id="plain"),
            pytest.param(b'{"messages":[],"kv_transfer_params":{}}', True, id="empty"),
            pytest.param(b'{"kv\\u005ftransfer_params":{}}', True, id="escaped key"),
            pytest.param(b'{"kv_transfer_params":null,"kv_transfer_params":{"a":1}}', True, id="twice"),
            pytest.param(b'{"temperature":NaN,"kv_transfer_params":{"a":1}}', True, id="beside what is no JSON"),
            pytest.param('{"kv_transfer_params":{"a":1}}'.encode("utf-16"), True, id="UTF-16"),
            pytest.param(b'{"kv_transfer_params":"x"}', True, id="of a wrong type"),
            pytest.param(b'{"kv_transfer_params": null }', False, id="null says nothing"),
            pytest.param(b'{"messages":[{"kv_transfer_params":{}}]}', False, id="below"),
            pytest.param(b'{"prompt":"\\"kv_transfer_params\\":{}"}', False, id="in a text"),
            pytest.param(b'[{"kv_transfer_params":{}}]', False, id="no object"),
            pytest.param(b'{"kv_transfer_params":', False, id="cut"),
            pytest.param(b"", False, id="nothing"),
            pytest.param(b"[" * 100_000, False, id="deep"),
            pytest.param(b"\xff\xfe\xfd", False, id="noise"),
        ],
    )
    def test_they_are_found_whatever_the_spelling(self, body: bytes, carries: bool) -> None:
        """As FastAPI would read it."""
        assert carries_transfer_params(body) is carries

    @given(st.dictionaries(st.sampled_from([PARAMS, "messages", "n"]) | st.text(), JSON, max_size=5), st.booleans())
    def test_they_are_found_exactly_where_a_parser_finds_them(self, body: dict[str, Any], escaped: bool) -> None:
        """The standard library is the judge: FastAPI uses it."""
        data = json.dumps(body, ensure_ascii=escaped).encode("utf-8", "surrogatepass")
        try:
            parsed = json.loads(data)
        except UnicodeDecodeError:
            return
        assert carries_transfer_params(data) is (parsed.get(PARAMS) is not None)

    @given(st.binary(max_size=200))
    def test_any_bytes_are_judged(self, body: bytes) -> None:
        """Garbage is the API's to refuse."""
        carries_transfer_params(body)


class TestLegs:
    """What a prefill replica is asked for."""

    @given(
        st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50),
        st.text(min_size=1, max_size=20),
        st.text(max_size=20),
    )
    def test_a_leg_is_a_completion_of_one_token(self, ids: list[int], model: str, salt: str) -> None:
        """The tokens as they are, and of the client's wishes only what changes the KV."""
        prefill = PrefillRequest(request_id="r1", model=model, prompt_token_ids=ids, cache_salt=salt)
        try:
            body = msgspec.json.decode(prefill_body(prefill))
        except UnicodeEncodeError:  # a lone surrogate, which no JSON body brings
            return
        assert body["prompt"] == ids
        assert body["model"] == model
        assert (body["max_tokens"], body["stream"]) == (1, False)
        assert body.get("cache_salt", "") == salt
        assert set(body) <= {"model", "prompt", "max_tokens", "temperature", "stream", "cache_salt", PARAMS}
        assert body[PARAMS]["do_remote_decode"] is True and body[PARAMS]["do_remote_prefill"] is False

    def test_a_leg_is_marked_and_has_a_name_of_its_own(self) -> None:
        """The router knows it by `<request>.prefill`; the mark lets it carry transfer parameters."""
        headers = prefill_headers(PREFILL)
        assert headers == {"content-type": "application/json", "x-request-id": "r1.prefill", PREFILL_KEYS_HEADER: "-"}
        keyed = msgspec.structs.replace(PREFILL, authorization="Bearer k", prefix="abc")
        assert prefill_headers(keyed)["authorization"] == "Bearer k"
        assert prefill_headers(keyed)[PREFILL_KEYS_HEADER] == "abc"

    @given(st.lists(st.integers(0, 2**64 - 1), max_size=MAX_KEYS), st.integers(0, 2**32 - 1))
    def test_prefix_keys_survive_their_header(self, keys: list[int], prompt_bytes: int) -> None:
        """In printable characters, within 1.4 KB."""
        packed = pack_prefix(keys, prompt_bytes)
        assert unpack_prefix(packed) == (keys, prompt_bytes)
        assert packed.isascii() and packed.isprintable() and len(packed) <= 1400

    @given(st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: raw.hex()))
    def test_any_header_is_read(self, value: str) -> None:
        """What is no prefix has no keys."""
        unpack_prefix(value)
        assert unpack_prefix("-") == ([], 0)


class Seen:
    """What a prefill replica saw of its client."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.left = asyncio.Event()


@asynccontextmanager
async def prefill_replica(answer: bytes | None, status: bytes = b"200 OK") -> AsyncIterator[tuple[Peer, Seen]]:
    """A server that reads requests and gives each this answer, or none."""
    seen = Seen()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
                await reader.readexactly(int(length.partition(b":")[2]))
                seen.asked.set()
                if answer is not None:
                    writer.write(b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n%b" % (status, len(answer), answer))
        except (asyncio.IncompleteReadError, ConnectionError):
            seen.left.set()
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    try:
        yield Peer(host, port), seen
    finally:
        server.close()


@asynccontextmanager
async def prefiller(**options: Any) -> AsyncIterator[Prefiller]:
    made = Prefiller(**options)
    try:
        yield made
    finally:
        await made.close()


class TestHandoffs:
    """One prefill request, whole or broken."""

    async def test_the_answers_parameters_are_what_to_decode_with(self) -> None:
        """And prefill requests share a connection."""
        async with prefill_replica(b'{"kv_transfer_params":{"remote_port":7}}') as (peer, _), prefiller() as prefills:
            for _ in range(2):
                assert await prefills.handoff(peer, PREFILL) == {"remote_port": 7}
            assert prefills.totals().outcomes == Handoffs(ok=2).outcomes
            assert prefills.totals().leg_ms > 0

    @pytest.mark.parametrize(
        ("answer", "status"),
        [
            pytest.param(b'{"error":{}}', b"500 Internal Server Error", id="an error"),
            pytest.param(b'{"kv_transfer_params":null}', b"200 OK", id="no connector"),
            pytest.param(b"<html>", b"200 OK", id="no JSON"),
            pytest.param(b'{"kv_transfer_params":7}', b"200 OK", id="odd parameters"),
            pytest.param(b"", b"302 Found\r\nlocation: http://127.0.0.1:1/", id="a redirect"),
        ],
    )
    async def test_an_odd_answer_is_a_failure(self, answer: bytes, status: bytes) -> None:
        """Computed here, counted; a redirect is not followed."""
        async with prefill_replica(answer, status) as (peer, _), prefiller() as prefills:
            assert await prefills.handoff(peer, PREFILL) is None
            assert prefills.totals().outcomes == Handoffs(failed=1).outcomes

    async def test_a_replica_that_is_gone_is_refused(self) -> None:
        """A closed port says so at once."""
        async with prefill_replica(None) as (peer, _):
            pass
        async with prefiller() as prefills:
            assert await prefills.handoff(peer, PREFILL) is None
            assert prefills.totals().outcomes == Handoffs(refused=1).outcomes

    async def test_a_replica_that_says_nothing_runs_out_of_time(self) -> None:
        """And its connection is closed, so that it stops."""
        async with prefill_replica(None) as (peer, seen), prefiller(timeout_s=0.05) as prefills:
            assert await prefills.handoff(peer, PREFILL) is None
            assert prefills.totals().outcomes == Handoffs(timeout=1).outcomes
            await seen.left.wait()

    async def test_a_hung_replica_costs_what_the_prompt_costs(self) -> None:
        """Three tokens are not waited for as long as the longest of prompts may take: an hour, here."""
        async with prefill_replica(None) as (peer, _), prefiller(timeout_s=3600.0) as prefills:
            async with asyncio.timeout(60):
                assert await prefills.handoff(peer, PREFILL) is None
            assert prefills.totals().outcomes == Handoffs(timeout=1).outcomes

    async def test_a_client_that_leaves_ends_the_leg(self) -> None:
        """Cancelled here, hung up there; it is no failure of the prefill replica."""
        async with prefill_replica(None) as (peer, seen), prefiller() as prefills:
            task = asyncio.create_task(prefills.handoff(peer, PREFILL))
            await seen.asked.wait()
            task.cancel()
            await asyncio.wait({task})
            assert task.cancelled()
            await seen.left.wait()
            assert prefills.totals().outcomes == Handoffs().outcomes


def test_every_outcome_is_reported() -> None:
    """Under its own name."""
    assert {outcome.value for outcome in HandoffOutcome} == set(Handoffs().outcomes)
