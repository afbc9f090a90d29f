"""The HTTP lookup front: the same question and answer, as form and lines."""

from urllib.parse import quote_from_bytes, urlencode

from hypothesis import given
from hypothesis import strategies as st
from router_fixture import client_of, register, running_router

from pointsman.policies.decision import Decision, Reason
from pointsman.router.fronts.lookup import MAX_FORM_BYTES, decode_form, encode_lines


async def test_the_answer_is_lines_of_what_is_set() -> None:
    """Readable by Lua and by eye."""
    async with running_router(policy={"policy": "round_robin"}) as router, client_of(router, "lookup") as client:
        await register(router, "a")
        answer = await client.post("/lookup", content=urlencode({"id": "1", "path": "/v1/completions"}))
        assert answer.text == "reason=round-robin\nfirst=a\n"
        assert answer.headers["content-type"].startswith("text/plain")


async def test_it_reserves_like_any_lookup_unless_asked_without_an_id() -> None:
    """A person's curl has no end-of-request line, so it leaves no reservation."""
    async with running_router() as router, client_of(router, "lookup") as client:
        await register(router, "a")
        await client.post("/lookup", content=urlencode({"path": "/v1/completions"}))
        assert len(router.core.load) == 0
        await client.post("/lookup", content=urlencode({"id": "1", "path": "/v1/completions"}))
        assert len(router.core.load) == 1


async def test_a_form_too_large_is_refused() -> None:
    """413 with the limit in the sentence."""
    async with running_router() as router, client_of(router, "lookup") as client:
        answer = await client.post("/lookup", content=b"x" * (MAX_FORM_BYTES + 1))
        assert answer.status_code == 413 and str(MAX_FORM_BYTES) in answer.text


def test_a_refusal_carries_status_and_delay() -> None:
    """HAProxy answers 429 with Retry-After from these."""
    refused = Decision(Reason.NO_CANDIDATES, status=429, retry_after_s=3)
    assert encode_lines(refused) == "reason=no-candidates\nstatus=429\nretry_after=3\n"


def test_a_request_to_be_held_carries_for_how_long() -> None:
    """Beside what refuses it, should nobody hold it."""
    waits = Decision(Reason.ADMISSION, status=429, retry_after_s=3, hold_ms=2500)
    assert encode_lines(waits) == "reason=admission\nstatus=429\nretry_after=3\nhold=2500\n"


def test_a_pair_carries_the_prefill_address() -> None:
    """What HAProxy hands to the decode replica; the replica's id is for people."""
    paired = Decision(Reason.LEAST_LOAD, "d", prefill="p", prefill_address="10.0.0.1:8000", pairing="paired")
    assert encode_lines(paired) == "reason=least-load\nfirst=d\nprefill=10.0.0.1:8000\n"


@given(st.binary(max_size=200))
def test_packed_bytes_survive_the_form(packed: bytes) -> None:
    """Percent-encoding carries the body packet bit for bit."""
    assert decode_form(b"size=12&body=" + quote_from_bytes(packed).encode()) == {"size": 12, "body": packed}


@given(st.binary(max_size=200))
def test_any_form_is_read(form: bytes) -> None:
    """Garbage is odd field names, not an error."""
    decode_form(form)
