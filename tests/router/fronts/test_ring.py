"""The log ring front: octet-counted JSON lines that end reservations."""

import asyncio
import random

import msgspec
import pytest
from candidates import make_candidates
from hypothesis import given
from hypothesis import strategies as st

from pointsman.contract.registration import Registration
from pointsman.policies.decision import Decision, Reason
from pointsman.policies.request import RequestFeatures
from pointsman.router.core import Core
from pointsman.router.decide.hold import Outcome
from pointsman.router.fronts.ring import MAX_LINE_BYTES, RingProtocol
from pointsman.router.requests.end_of_request import MAX_WORKERS


def line(**fields: object) -> bytes:
    """A line as HAProxy's log-format writes it."""
    whole = {
        "ev": "end", "id": "r1", "pid": 1, "srv": "a", "first": "a", "reason": "least-load", "st": 200, "tw": 0,
        "tc": 0, "tr": 20, "ta": 300, "ttft": "-", "bytes": 1, "ts": "--", "rc": "0", "routed": "1",
    } | fields  # fmt: skip
    return msgspec.json.encode(whole)


def framed(*lines: bytes) -> bytes:
    return b"".join(b"%d %s" % (len(raw), raw) for raw in lines)


class FakeTransport(asyncio.Transport):
    """Remembers only that it was closed."""

    closed = False

    def close(self) -> None:
        self.closed = True


class Ring:
    """The front on its own state."""

    def __init__(self) -> None:
        self.core = Core({"policy": "least_load"}, rng=random.Random(1))
        self.load, self.kv, self.replicas = self.core.load, self.core.kv, self.core.replicas
        self.outliers, self.holds = self.core.outliers, self.core.holds
        self.metrics = self.core.request_metrics
        self.events = self.core.end_of_request
        self.transport = FakeTransport()
        for port, name in ((1, "a"), (2, "b")):
            self.replicas.put(name, Registration(url=f"http://10.0.0.1:{port}"), ("10.0.0.1", port), 0.0)
        self.protocol = RingProtocol(self.events, self.metrics, lambda: 0.0)
        self.protocol.connection_made(self.transport)

    def place(self, request: str, **features: object) -> None:
        """A decision by KV sent a request to replica a."""
        asked, requests = RequestFeatures(request_id=request, **features), self.core.requests  # type: ignore[arg-type]
        requests.reserve(request, 0, 10, 0.0)
        requests.place(asked, self.kv.read(asked, 0.0), 0, make_candidates(a=0), 0.0)


def test_a_line_ends_its_reservation_and_is_counted() -> None:
    """In flight one before, none after; times and status go to the replica that served."""
    ring = Ring()
    ring.core.requests.reserve("r1", 0, 10, now_s=0.0)
    ring.protocol.data_received(framed(line()))
    assert len(ring.load) == 0
    served = ring.metrics.replicas["a"]
    assert served.by_class == {"2xx": 1}
    assert served.request_s.total == pytest.approx(0.3)
    assert served.first_response_s.total == pytest.approx(0.02)


def test_first_tokens_and_ends_release_the_prefill_backlog() -> None:
    """A `first` line does, and so does the end of a request that never had a first token."""
    ring = Ring()
    ring.place("r1", body_bytes=2000)
    ring.place("r2", body_bytes=1200)
    ring.protocol.data_received(framed(line(ev="first", id="r1")))
    assert ring.kv.signals.waiting[0] == 300
    ring.protocol.data_received(framed(line(id="r2")))
    assert ring.kv.signals.waiting[0] == 0


def test_lines_survive_every_split() -> None:
    """TCP may cut anywhere, inside the length too."""
    stream = framed(line(id="r1"), line(id="r2"), line(id="r3"))
    for cut in range(len(stream) + 1):
        ring = Ring()
        ring.protocol.data_received(stream[:cut])
        ring.protocol.data_received(stream[cut:])
        assert ring.metrics.lines == 3, cut
    ring = Ring()
    for at in range(len(stream)):
        ring.protocol.data_received(stream[at : at + 1])
    assert ring.metrics.lines == 3 and not ring.transport.closed


def test_a_redispatch_is_counted_where_it_landed() -> None:
    """`rc` with a plus: another server than the chosen one served."""
    ring = Ring()
    ring.protocol.data_received(framed(line(srv="b", first="a", rc="+1")))
    assert ring.metrics.replicas["b"].redispatched == 1


@pytest.mark.parametrize(
    ("fields", "fail_open", "undecided"),
    [
        pytest.param({"reason": "fail-open"}, 1, {}, id="no answer came in time"),
        pytest.param({"reason": "fail-open", "routed": "2"}, 1, {}, id="the router was away"),
        pytest.param({"reason": "fail-open", "ts": "SC", "tr": -1, "st": 503}, 1, {}, id="no replica took it then"),
        pytest.param({"reason": "fail-open", "ts": "CD"}, 1, {}, id="the client left in the middle of the answer"),
        pytest.param(
            {"reason": "fail-open", "ts": "CH", "tr": -1, "st": 400, "routed": "2"},
            1,
            {},
            id="the router was away and the client left",
        ),
        pytest.param(
            {"reason": "fail-open", "ts": "CH", "tr": -1, "st": 400},
            0,
            {"client-left": 1},
            id="the client left",
        ),
        pytest.param(
            {"reason": "fail-open", "ts": "CR", "tr": -1, "st": 400, "routed": "2"},
            0,
            {"client-left": 1},
            id="the client left amid its body",
        ),
        pytest.param({"reason": "-", "ts": "cR", "tr": -1, "st": 408}, 0, {"client-timeout": 1}, id="no body came"),
        pytest.param({"reason": "-", "ts": "PR", "tr": -1, "st": 400}, 0, {"other": 1}, id="HAProxy refused it"),
        pytest.param({"reason": "-", "routed": "-"}, 0, {}, id="a balanced request"),
        pytest.param({"reason": "no-candidates"}, 0, {}, id="the router had no opinion"),
    ],
)
def test_only_what_haproxy_placed_alone_failed_open(
    fields: dict[str, object], fail_open: int, undecided: dict[str, int]
) -> None:
    """A request that ended before the router was asked counts by its cause, and proves nothing against the router."""
    ring = Ring()
    ring.protocol.data_received(framed(line(**fields)))
    assert (ring.metrics.fail_open, dict(ring.metrics.undecided)) == (fail_open, undecided)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"ttft": "9" * 5000}, id="digits that Python does not convert"),
        pytest.param({"ttft": "9" * 11}, id="a first token after years"),
        pytest.param({"tr": 2**31}, id="a time beyond 32 bits"),
        pytest.param({"ta": 10**30}, id="a time beyond 64 bits"),
        pytest.param({"st": 1000}, id="no status"),
        pytest.param({"pid": -1}, id="no process"),
    ],
)
def test_a_number_out_of_range_is_a_malformed_line(fields: dict[str, object]) -> None:
    """It changes nothing, and the connection goes on with the next line."""
    ring = Ring()
    ring.core.requests.reserve("r1", 0, 10, now_s=0.0)
    ring.protocol.data_received(framed(line(**fields)))
    assert ring.metrics.malformed_lines == 1 and ring.core.requests.is_reserved("r1") and not ring.metrics.replicas
    ring.protocol.data_received(framed(line()))
    assert len(ring.load) == 0 and not ring.transport.closed


def test_the_last_end_of_each_worker_is_remembered() -> None:
    """Of at most `MAX_WORKERS`, whatever process ids lines invent."""
    ring = Ring()
    ring.protocol.data_received(framed(line(id="r1", pid=7), line(id="r2", pid=8), line(id="r3", pid=7)))
    assert ring.events.last_ids == {7: "r3", 8: "r2"}
    for pid in range(100, 100 + MAX_WORKERS):
        ring.protocol.data_received(framed(line(pid=pid)))
    assert len(ring.events.last_ids) == MAX_WORKERS and 8 not in ring.events.last_ids


def test_a_request_no_server_took_is_refused_not_served() -> None:
    """A 503 of HAProxy's own must not look like a replica's."""
    ring = Ring()
    ring.core.requests.reserve("r1", 0, 10, now_s=0.0)
    ring.protocol.data_received(framed(line(srv="<NOSRV>", st=503, tr=-1)))
    ring.protocol.data_received(framed(line(srv="<lua.pm_no_model>", st=400, tr=0)))
    assert ring.metrics.refused == {503: 1, 400: 1} and not ring.metrics.replicas
    assert len(ring.load) == 0


def test_an_aborted_request_has_no_status_but_ends() -> None:
    """A client that left before the headers: status -1, still one line, still released."""
    ring = Ring()
    ring.core.requests.reserve("r1", 0, 10, now_s=0.0)
    ring.protocol.data_received(framed(line(st=-1, tr=-1, ts="CH")))
    assert ring.metrics.replicas["a"].by_class == {"none": 1} and len(ring.load) == 0


def test_the_end_of_a_held_request_frees_its_place() -> None:
    """Its client left: whoever stands behind moves up, and nothing is placed for it any more."""
    ring = Ring()
    refusal = Decision(Reason.ADMISSION, status=429)
    for request in ("r1", "r2"):
        ring.holds.join(RequestFeatures(request_id=request), 0.0, 10.0, refusal)
    ring.protocol.data_received(framed(line(id="r1", srv="<NOSRV>", st=429, tr=-1)))
    assert [held.features.request_id for held in ring.holds] == ["r2"]
    assert ring.holds.outcomes == {Outcome.GONE: 1}


def test_what_haproxy_notes_of_a_held_client_that_left_is_no_malformed_line() -> None:
    """Lua's complaint comes through the ring too."""
    ring = Ring()
    ring.protocol.data_received(framed(b"Lua function 'pm_hold': yield not allowed.", line()))
    assert (ring.metrics.malformed_lines, ring.metrics.lines) == (0, 2)


@pytest.mark.parametrize(
    ("st", "live"), [(200, 1), (206, 1), (-1, 0), (302, 0), (400, 0), (413, 0), (500, 0), (503, 0)]
)
def test_a_conversation_lives_once_it_is_answered(st: int, live: int) -> None:
    """Its client left before its first answer began, or it was refused: no room is kept for what it would have said
    next, and it has no home."""
    ring = Ring()
    ring.place("r1", session="s", body_bytes=400)
    assert ring.kv.conversations.live == 1
    ring.protocol.data_received(framed(line(id="r1", st=st, ts="CH")))
    ring.core.validate()
    assert ring.kv.conversations.live == live
    assert (ring.kv.conversations.get("s") is not None) == live
    assert (ring.kv.signals.footprint[0] > 0) == live


@pytest.mark.parametrize(
    "stream",
    [b"x 1", b"123456789", b"%d {}" % (MAX_LINE_BYTES + 1), b" {}", b"-1 {}"],
    ids=["no digits", "endless length", "too long", "no length", "negative"],
)
def test_broken_framing_disconnects(stream: bytes) -> None:
    """Where lines begin is lost; HAProxy reconnects and goes on with whole ones."""
    ring = Ring()
    ring.protocol.data_received(stream)
    assert ring.transport.closed and ring.metrics.malformed_lines == 1


def test_a_line_that_is_not_ours_is_counted_and_skipped() -> None:
    """The next line is read as usual."""
    ring = Ring()
    ring.protocol.data_received(framed(b"<7>hello", line()))
    assert (ring.metrics.malformed_lines, ring.metrics.lines) == (1, 2)
    assert not ring.transport.closed


@given(st.binary(max_size=400))
def test_any_bytes_are_survived(stream: bytes) -> None:
    """Lines, or one disconnect; nothing else."""
    ring = Ring()
    ring.protocol.data_received(stream)


def test_ends_are_evidence_on_the_replica_that_had_the_request() -> None:
    """Five streams cut: it is ejected, and the cause is known."""
    ring = Ring()
    for number in range(5):
        ring.protocol.data_received(framed(line(id=f"r{number}", ts="SD")))
    assert ring.outliers.ejected == {("a", "cut"): 1}


def test_what_was_not_routed_proves_nothing() -> None:
    """A list of models that fails is no answer to a decision."""
    ring = Ring()
    for number in range(50):
        ring.protocol.data_received(framed(line(id=f"r{number}", st=500, routed="-")))
    assert not ring.outliers.failures


def test_a_request_sent_again_is_backpressure_of_the_first_choice() -> None:
    """The one that served has a good answer; the retry counts against the budget."""
    ring = Ring()
    ring.protocol.data_received(framed(line(srv="b", first="a", rc="+1")))
    assert ring.outliers.backpressure == {"a": 1}
    assert repr(ring.outliers.budget) == "RetryBudget(1.0 of 1.0 requests)"


def test_a_timed_stream_of_a_plain_endpoint_tells_its_pace() -> None:
    """Its bytes from the first token to the end; three endpoints are needed to compare."""
    ring = Ring()
    ring.replicas.put("c", Registration(url="http://10.0.0.1:3"), ("10.0.0.1", 3), 0.0)
    for number, (name, ta) in enumerate({"a": 10_100, "b": 1_100, "c": 1_100}.items()):
        ring.kv.add_slot(number, name)
        ring.protocol.data_received(framed(line(id=name, srv=name, first=name, ttft="100", ta=ta, bytes=100_000)))
    ring.outliers.step(0.0)
    assert {slot: round(demotion.ratio) for slot, demotion in ring.outliers.demoted.items()} == {0: 10}
