"""Requests as bytes, and the reader of answers."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.http import MAX_HEAD_BYTES, AnswerReader, BadAnswerError, Request, chat_body

WHOLE = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nx-pointsman-replica: r1\r\n\r\nhello"
EVENTS = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\ndata: a\n\n\r\n9\r\ndata: b\n\n\r\n0\r\n\r\n"


def chunked(pieces: list[bytes]) -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n"


def read(reader: AnswerReader, data: bytes, cuts: list[int]) -> bool:
    """Feed `data` in pieces; whether the last one, and only it, completed the answer."""
    edges = [0, *sorted(cut % len(data) for cut in cuts), len(data)]
    pieces = [data[a:b] for a, b in itertools.pairwise(edges) if a < b]
    done = [reader.feed(piece) for piece in pieces]
    return done[-1] and not any(done[:-1])


@pytest.mark.parametrize(
    ("size", "stream"), [pytest.param(200, False, id="least"), pytest.param(204_800, True, id="200 KB")]
)
def test_a_body_has_the_size_that_was_asked_for(size: int, stream: bool) -> None:
    """Bodies are valid JSON of exactly that many bytes, with what was asked for inside."""
    body = chat_body(size, max_tokens=7, stream=stream, model="m")
    document = json.loads(body)
    assert len(body) == size
    assert (document["max_tokens"], document["stream"], document["model"]) == (7, stream, "m")
    assert document["messages"][0]["role"] == "system"


def test_a_body_too_small_to_hold_a_request_is_refused() -> None:
    """The error says how large it must be."""
    with pytest.raises(ValueError, match="at least"):
        chat_body(20)


def test_a_request_says_its_length_and_session() -> None:
    """The head ends with an empty line, and the body is kept apart."""
    request = Request.post("/v1/chat/completions", b"{}", session="s1")
    assert request.head == (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        b"x-session-id: s1\r\nContent-Length: 2\r\n\r\n"
    )
    assert request.body == b"{}"


@given(st.lists(st.integers(0, 1000), max_size=8))
def test_an_answer_with_a_length_is_read_however_it_is_cut(cuts: list[int]) -> None:
    """Status, headers and size are the same wherever the socket cuts."""
    reader = AnswerReader()
    assert read(reader, WHOLE, cuts)
    assert (reader.status, reader.body_bytes, reader.header(b"x-pointsman-replica")) == (200, 5, b"r1")
    assert reader.header(b"x-none") == b""


@given(st.lists(st.binary(max_size=40), max_size=8), st.lists(st.integers(0, 10_000), max_size=12))
def test_chunks_add_up_however_they_are_cut(pieces: list[bytes], cuts: list[int]) -> None:
    """Bytes are those of all pieces; events are the pairs of newlines in the pieces joined."""
    reader = AnswerReader()
    assert read(reader, chunked(pieces), cuts)
    body = b"".join(pieces)
    assert (reader.body_bytes, reader.events) == (len(body), body.count(b"\n\n"))


@given(st.lists(st.sampled_from([b"\n", b"\n\n", b"a\n", b"\na", b"\n\n\n", b"a"]), max_size=12))
def test_an_event_that_ends_in_two_chunks_counts_once(pieces: list[bytes]) -> None:
    """The two newlines of an event may lie on both sides of a chunk's end."""
    reader = AnswerReader()
    assert reader.feed(chunked(pieces))
    assert reader.events == b"".join(pieces).count(b"\n\n")


def test_one_reader_reads_one_answer_after_another() -> None:
    """After `reset` nothing of the answer before is left."""
    reader = AnswerReader()
    assert reader.feed(EVENTS)
    assert reader.events == 2
    reader.reset()
    assert reader.feed(WHOLE)
    assert (reader.events, reader.body_bytes) == (0, 5)


def test_an_empty_body_is_complete_with_its_head() -> None:
    """Nothing more is waited for."""
    assert AnswerReader().feed(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")


def test_a_last_answer_is_told() -> None:
    """`connection: close` in any case of letters."""
    reader = AnswerReader()
    assert reader.feed(b"HTTP/1.1 200 OK\r\nConnection: Close\r\ncontent-length: 0\r\n\r\n")
    assert reader.closes


def test_trailers_are_passed_over() -> None:
    """RFC 9112 7.1.2: header fields may stand between the last chunk and the end."""
    assert AnswerReader().feed(EVENTS[:-2] + b"x-checksum: 1\r\n\r\n")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n", id="version"),
        pytest.param(b"HTTP/1.1 2xx OK\r\ncontent-length: 0\r\n\r\n", id="status"),
        pytest.param(b"HTTP/1.1 200 OK\r\nserver: x\r\n\r\n", id="no length"),
        pytest.param(WHOLE + b"HTTP", id="bytes behind a length"),
        pytest.param(EVENTS + b"HTTP", id="bytes behind chunks"),
        pytest.param(EVENTS.replace(b"9\r\ndata: a", b"8\r\ndata: a"), id="chunk longer than said"),
        pytest.param(EVENTS.replace(b"9\r\ndata: a", b"zz\r\ndata: a"), id="chunk size not hex"),
        pytest.param(b"HTTP/1.1 200 OK\r\nx: " + b"x" * MAX_HEAD_BYTES, id="endless head"),
    ],
)
def test_what_is_not_understood_is_not_counted(data: bytes) -> None:
    """Anything but an HTTP/1.1 answer to one request is an error."""
    with pytest.raises(BadAnswerError):
        AnswerReader().feed(data)
