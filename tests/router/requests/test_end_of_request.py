"""What one line of HAProxy's ring changes: reservations, KV, metrics and evidence on replicas."""

from __future__ import annotations

import random

import pytest
from candidates import make_candidates
from invariants import check
from ring_line import line

from pointsman.contract.registration import Registration
from pointsman.policies.decision import Decision, Reason
from pointsman.policies.request import RequestFeatures
from pointsman.router.core import Core
from pointsman.router.requests.end_of_request import MAX_WORKERS
from pointsman.router.requests.hold_queue import Outcome


class Edge:
    """A core with replicas a and b, and the lines of HAProxy."""

    def __init__(self) -> None:
        self.core = Core({"policy": "least_load"}, rng=random.Random(1))
        self.load, self.kv, self.replicas = self.core.load, self.core.kv, self.core.replicas
        self.outliers, self.holds = self.core.outliers, self.core.holds
        self.metrics = self.core.request_metrics
        self.events = self.core.end_of_request
        for port, name in ((1, "a"), (2, "b")):
            self.replicas.put(name, Registration(url=f"http://10.0.0.1:{port}"), ("10.0.0.1", port), 0.0)

    def apply(self, *lines: bytes) -> None:
        for raw in lines:
            self.core.end_of_request.apply(raw, 0.0)

    def place(self, request: str, **features: object) -> None:
        """A decision by KV sent a request to replica a."""
        asked, requests = RequestFeatures(request_id=request, **features), self.core.requests  # type: ignore[arg-type]
        requests.reserve(request, 0, 10, 0.0)
        requests.place(asked, self.kv.read(asked, 0.0), 0, make_candidates(a=0), 0.0)


def test_a_line_ends_its_reservation_and_is_counted() -> None:
    """In flight one before, none after; times and status go to the replica that served."""
    edge = Edge()
    edge.core.requests.reserve("r1", 0, 10, now_s=0.0)
    edge.apply(line())
    assert len(edge.load) == 0
    served = edge.metrics.replicas["a"]
    assert served.by_class == {"2xx": 1}
    assert served.request_s.total == pytest.approx(0.3)
    assert served.first_response_s.total == pytest.approx(0.02)


def test_first_tokens_and_ends_release_the_prefill_backlog() -> None:
    """A `first` line does, and so does the end of a request that never had a first token."""
    edge = Edge()
    edge.place("r1", body_bytes=2000)
    edge.place("r2", body_bytes=1200)
    edge.apply(line(ev="first", id="r1"))
    assert edge.kv.columns.signals.waiting[0] == 300
    edge.apply(line(id="r2"))
    assert edge.kv.columns.signals.waiting[0] == 0


def test_a_redispatch_is_counted_where_it_landed() -> None:
    """`rc` with a plus: another server than the chosen one served."""
    edge = Edge()
    edge.apply(line(srv="b", first="a", rc="+1"))
    assert edge.metrics.replicas["b"].redispatched == 1


def test_what_haproxy_notes_of_the_rings_own_backend_is_no_malformed_line() -> None:
    """A router that begins has such lines written, and a worker writes one when it ends."""
    edge = Edge()
    edge.apply(
        b"Server pm-ring/line is UP/READY (leaving forced maintenance).",
        b"Server pm-ring/line is going DOWN for maintenance. 1 active and 0 backup servers left.",
        b"Proxy pm-ring stopped (cumulated conns: FE: 0, BE: 0).",
    )
    assert edge.metrics.malformed_lines == 0


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
    edge = Edge()
    edge.apply(line(**fields))
    assert (edge.metrics.fail_open, dict(edge.metrics.undecided)) == (fail_open, undecided)


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
    """It changes nothing, and the next line counts."""
    edge = Edge()
    edge.core.requests.reserve("r1", 0, 10, now_s=0.0)
    edge.apply(line(**fields))
    assert edge.metrics.malformed_lines == 1 and edge.core.requests.is_reserved("r1") and not edge.metrics.replicas
    edge.apply(line())
    assert len(edge.load) == 0


def test_the_last_end_of_each_worker_is_remembered() -> None:
    """Of at most `MAX_WORKERS`, whatever process ids lines invent."""
    edge = Edge()
    edge.apply(line(id="r1", pid=7), line(id="r2", pid=8), line(id="r3", pid=7))
    assert edge.events.last_ids == {7: "r3", 8: "r2"}
    for pid in range(100, 100 + MAX_WORKERS):
        edge.apply(line(pid=pid))
    assert len(edge.events.last_ids) == MAX_WORKERS and 8 not in edge.events.last_ids


def test_a_request_no_server_took_is_refused_not_served() -> None:
    """A 503 of HAProxy's own must not look like a replica's."""
    edge = Edge()
    edge.core.requests.reserve("r1", 0, 10, now_s=0.0)
    edge.apply(line(srv="<NOSRV>", st=503, tr=-1))
    edge.apply(line(srv="<lua.pm_no_model>", st=400, tr=0))
    assert edge.metrics.refused == {503: 1, 400: 1} and not edge.metrics.replicas
    assert len(edge.load) == 0


def test_an_aborted_request_has_no_status_but_ends() -> None:
    """A client that left before the headers: status -1, still one line, still released."""
    edge = Edge()
    edge.core.requests.reserve("r1", 0, 10, now_s=0.0)
    edge.apply(line(st=-1, tr=-1, ts="CH"))
    assert edge.metrics.replicas["a"].by_class == {"none": 1} and len(edge.load) == 0


def test_the_end_of_a_held_request_frees_its_place() -> None:
    """Its client left: whoever stands behind moves up, and nothing is placed for it any more."""
    edge = Edge()
    refusal = Decision(Reason.ADMISSION, status=429)
    for request in ("r1", "r2"):
        edge.holds.join(RequestFeatures(request_id=request), 0.0, 10.0, refusal)
    edge.apply(line(id="r1", srv="<NOSRV>", st=429, tr=-1))
    assert [held.features.request_id for held in edge.holds] == ["r2"]
    assert edge.holds.outcomes == {Outcome.GONE: 1}


@pytest.mark.parametrize(
    "note",
    [
        pytest.param(b"Lua function 'pm_hold': yield not allowed.", id="a held client left"),
        pytest.param(b"Proxy edge stopped (cumulated conns: FE: 9, BE: 0).", id="an old worker stops"),
    ],
)
def test_what_haproxy_notes_of_its_own_accord_is_no_malformed_line(note: bytes) -> None:
    """It comes the same way as the lines of requests."""
    edge = Edge()
    edge.apply(note, line())
    assert (edge.metrics.malformed_lines, edge.metrics.lines) == (0, 2)


@pytest.mark.parametrize(
    ("st", "live"), [(200, 1), (206, 1), (-1, 0), (302, 0), (400, 0), (413, 0), (500, 0), (503, 0)]
)
def test_a_conversation_lives_once_it_is_answered(st: int, live: int) -> None:
    """Its client left before its first answer began, or it was refused: no room is kept for what it would have said
    next, and it has no home."""
    edge = Edge()
    edge.place("r1", session="s", body_bytes=400)
    assert edge.kv.conversations.counts()[0] == 1
    edge.apply(line(id="r1", st=st, ts="CH"))
    check(edge.core)
    assert edge.kv.conversations.counts()[0] == live
    assert (edge.kv.conversations.by_name.get("s") is not None) == live
    assert (edge.kv.columns.signals.footprint[0] > 0) == live


def test_ends_are_evidence_on_the_replica_that_had_the_request() -> None:
    """Five streams cut: it is ejected, and the cause is known."""
    edge = Edge()
    for number in range(5):
        edge.apply(line(id=f"r{number}", ts="SD"))
    assert edge.outliers.ejected == {("a", "cut"): 1}


def test_what_was_not_routed_proves_nothing() -> None:
    """A list of models that fails is no answer to a decision."""
    edge = Edge()
    for number in range(50):
        edge.apply(line(id=f"r{number}", st=500, routed="-"))
    assert not edge.outliers.failures


def test_a_request_sent_again_is_backpressure_of_the_first_choice() -> None:
    """The one that served has a good answer; the retry counts against the budget."""
    edge = Edge()
    edge.apply(line(srv="b", first="a", rc="+1"))
    assert edge.outliers.backpressure == {"a": 1}
    assert repr(edge.outliers.budget) == "RetryBudget(1.0 of 1.0 requests)"


def test_a_timed_stream_of_a_plain_endpoint_tells_its_pace() -> None:
    """Its bytes from the first token to the end; three endpoints are needed to compare."""
    edge = Edge()
    edge.replicas.put("c", Registration(url="http://10.0.0.1:3"), ("10.0.0.1", 3), 0.0)
    for number, (name, ta) in enumerate({"a": 10_100, "b": 1_100, "c": 1_100}.items()):
        edge.kv.add_slot(number, name)
        edge.apply(line(id=name, srv=name, first=name, ttft="100", ta=ta, bytes=100_000))
    edge.outliers.step(0.0)
    assert {slot: round(demotion.ratio) for slot, demotion in edge.outliers.demoted.items()} == {0: 10}
