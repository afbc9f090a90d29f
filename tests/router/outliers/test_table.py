"""Ejection, demotion and their limits, one replica and one answer at a time."""

import random

from invariants import check

from pointsman.contract.events import EngineEvents, Finished, FirstToken
from pointsman.contract.registration import Registration, Role
from pointsman.router.fleet.replica import Health
from pointsman.router.fleet.replicas import ReplicaRegistry
from pointsman.router.outliers.answers import Verdict
from pointsman.router.outliers.failure_accrual import MAX_PROBES, OutlierConfig
from pointsman.router.outliers.table import OutlierTable

CONFIG = OutlierConfig()


class Fleet:
    """A registry and its outlier table; every answer takes no time."""

    def __init__(self, count: int = 4, config: OutlierConfig = CONFIG) -> None:
        self.now_s = 100.0
        self.replicas = ReplicaRegistry(initial_health=Health.UP)
        self.prefill_ms: dict[int, float] = {}
        self.outliers = OutlierTable(config, self.replicas, prefill_ms=lambda slot: self.prefill_ms.get(slot, 0.0))
        for number in range(1, count + 1):
            self.put(f"r{number}")
        self._asked = 0

    def put(self, name: str, *, born_ms: int = 0, role: Role = Role.BOTH, model: str = "") -> None:
        port = 8000 + int(name[1:])
        registration = Registration(url=f"http://127.0.0.1:{port}", born_ms=born_ms, role=role, model=model)
        self.replicas.put(name, registration, ("127.0.0.1", port), self.now_s)

    def slot(self, name: str) -> int:
        return self.replicas.slot_of(name)

    def end(self, name: str, verdict: Verdict, *, request: str = "", lasted_s: float = 0.0, times: int = 1) -> None:
        for _ in range(times):
            self._asked += 1
            self.outliers.ended(request or f"q{self._asked}", name, verdict, self.now_s, lasted_s=lasted_s)
            check(self.outliers)

    def fail(self, name: str, times: int = CONFIG.consecutive_failures) -> None:
        self.end(name, Verdict.ERROR, times=times)

    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self.outliers.step(self.now_s)
        check(self.outliers)

    def probe(self, name: str, request: str) -> None:
        assert self.slot(name) in self.outliers.probing
        self.outliers.probe(self.slot(name), request, self.now_s)

    @property
    def states(self) -> dict[str, str]:
        return {replica.id: replica.state for replica in self.replicas}

    @property
    def eligible(self) -> set[str]:
        return {self.replicas.ids[slot] for slot in self.replicas.memberships.of("").slots}


def test_half_of_the_answers_failing_eject_a_replica() -> None:
    """One good, one bad: never two in a row, and still half of what it answers."""
    fleet = Fleet()
    for _ in range(CONFIG.min_answers):
        fleet.end("r1", Verdict.GOOD)
        fleet.end("r1", Verdict.CUT)
    assert fleet.states["r1"] == "ejected"


def test_a_few_failures_among_many_good_answers_eject_nobody() -> None:
    """A tenth of the answers failing is not the half that proves something."""
    fleet = Fleet()
    for _ in range(50):
        fleet.end("r1", Verdict.GOOD, times=9)
        fleet.end("r1", Verdict.ERROR)
    assert fleet.states["r1"] == "up"


def test_each_failed_probe_doubles_the_ejection_up_to_its_limit() -> None:
    """1, 2, 4, ... 30, 30 seconds."""
    fleet = Fleet()
    fleet.fail("r1")
    lengths = []
    for number in range(8):
        ejection = fleet.outliers.ejection(fleet.slot("r1"))
        assert ejection is not None
        lengths.append(ejection.until_s - fleet.now_s)
        fleet.wait(lengths[-1])
        fleet.probe("r1", f"probe-{number}")
        fleet.end("r1", Verdict.ERROR, request=f"probe-{number}")
    assert lengths == [1, 2, 4, 8, 16, 30, 30, 30]


def test_a_replica_that_fails_again_soon_is_ejected_for_longer_and_forgiven_after_a_minute() -> None:
    """Flapping does not pay; an old fault is forgotten."""
    fleet = Fleet()

    def eject_and_bring_back() -> float:
        fleet.fail("r1")
        ejection = fleet.outliers.ejection(fleet.slot("r1"))
        assert ejection is not None
        length_s = ejection.until_s - fleet.now_s
        fleet.wait(length_s)
        fleet.probe("r1", "probe")
        fleet.end("r1", Verdict.GOOD, request="probe")
        return length_s

    assert eject_and_bring_back() == 1
    assert eject_and_bring_back() == 2
    fleet.wait(61)
    assert eject_and_bring_back() == 1


def test_a_probe_whose_client_left_proves_nothing_and_the_next_one_follows() -> None:
    """The replica is due for a probe again at once."""
    fleet = Fleet()
    fleet.fail("r1")
    fleet.wait(1)
    fleet.probe("r1", "probe")
    fleet.end("r1", Verdict.NEUTRAL, request="probe")
    assert fleet.slot("r1") in fleet.outliers.probing


def test_a_probe_without_a_sign_of_life_makes_the_next_one_wait_longer() -> None:
    """A replica that hangs gets a probe after 1, then 2, then 4 seconds; each of them costs a client."""
    fleet = Fleet()
    fleet.fail("r1")
    fleet.wait(1)
    fleet.probe("r1", "p1")
    fleet.wait(1)
    fleet.probe("r1", "p2")
    fleet.wait(1)
    assert fleet.slot("r1") not in fleet.outliers.probing
    fleet.wait(1)
    assert fleet.slot("r1") in fleet.outliers.probing


def test_a_probe_that_streams_keeps_the_next_one_at_the_same_distance() -> None:
    """The engine reports its first token: it is alive, and the next probe comes after the same while."""
    fleet = Fleet()
    fleet.fail("r1")
    for number in range(3):
        fleet.wait(1)
        fleet.probe("r1", f"p{number}")
        events = EngineEvents(epoch="e", seq=number, first=[FirstToken(f"p{number}", 10)])
        fleet.outliers.report(fleet.slot("r1"), events, fleet.now_s)
    fleet.wait(1)
    assert fleet.slot("r1") in fleet.outliers.probing


def test_probes_without_an_end_are_bounded() -> None:
    """The oldest is forgotten; its late answer then counts as any answer of an ejected replica: not at all."""
    fleet = Fleet(config=OutlierConfig(max_ejection_s=1.0))
    fleet.fail("r1")
    for number in range(MAX_PROBES + 1):
        fleet.wait(1)
        fleet.probe("r1", f"p{number}")
    fleet.end("r1", Verdict.GOOD, request="p0")
    assert fleet.states["r1"] == "ejected"
    fleet.end("r1", Verdict.GOOD, request="p1")
    assert fleet.states["r1"] == "up"


def test_requests_from_before_the_ejection_do_not_end_it() -> None:
    """Streams that were well before the fault may still end well."""
    fleet = Fleet()
    fleet.fail("r1")
    fleet.end("r1", Verdict.GOOD, request="old")
    assert fleet.states["r1"] == "ejected"


def test_at_most_half_are_ejected_and_beyond_that_none() -> None:
    """Two of four are out; with a third, all are back in, each with a tenth of its requests."""
    fleet = Fleet()
    for name in ("r1", "r2"):
        fleet.fail(name)
    assert fleet.eligible == {"r3", "r4"}
    fleet.fail("r3")
    assert fleet.eligible == {"r1", "r2", "r3", "r4"}
    assert {slot: demotion.share for slot, demotion in fleet.outliers.demoted.items()} == dict.fromkeys(
        (fleet.slot("r1"), fleet.slot("r2"), fleet.slot("r3")), CONFIG.demoted_share
    )


def test_a_good_answer_of_a_spared_replica_brings_it_back_and_the_others_out() -> None:
    """With two of four failing again, both are ejected."""
    fleet = Fleet()
    for name in ("r1", "r2", "r3"):
        fleet.fail(name)
    fleet.end("r3", Verdict.GOOD)
    assert fleet.eligible == {"r3", "r4"}


def test_replicas_that_are_down_or_draining_do_not_count_as_others() -> None:
    """Of four, two are up: one may be ejected, and the last one never."""
    fleet = Fleet()
    fleet.replicas.set_health("r3", Health.DOWN, 0.0)
    fleet.replicas.drain("r4", 0.0)
    fleet.fail("r1")
    assert fleet.eligible == {"r2"}
    fleet.fail("r2")
    assert fleet.eligible == {"r1", "r2"}


def test_when_a_healthy_replica_leaves_the_ejected_one_is_spared() -> None:
    """The step after the health check finds that it would be the last one."""
    fleet = Fleet(2)
    fleet.fail("r1")
    assert fleet.eligible == {"r2"}
    fleet.replicas.set_health("r2", Health.DOWN, 0.0)
    fleet.wait(0.5)
    assert fleet.eligible == {"r1"}


def test_models_are_judged_apart() -> None:
    """The only replica of a model stays, whatever the others of the fleet are."""
    fleet = Fleet(0)
    fleet.put("r1", model="a")
    fleet.put("r2", model="b")
    fleet.put("r3", model="b")
    fleet.fail("r1")
    fleet.fail("r2")
    assert fleet.states == {"r1": "up", "r2": "ejected", "r3": "up"}


def test_a_reset_ends_an_ejection_and_what_led_to_it() -> None:
    """The next failures are counted anew, and the next ejection is a first one again; the others are settled, too."""
    fleet = Fleet()
    for name in ("r1", "r2"):
        fleet.fail(name)
    fleet.fail("r3")
    assert fleet.states == {"r1": "up", "r2": "up", "r3": "up", "r4": "up"}  # three of four: none is ejected
    replica = fleet.replicas.get("r1")
    assert replica is not None
    fleet.outliers.reset(replica, fleet.now_s)
    check(fleet.outliers)
    assert fleet.states == {"r1": "up", "r2": "ejected", "r3": "ejected", "r4": "up"}
    assert fleet.outliers.ejection(replica.slot) is None and replica.slot not in fleet.outliers.demoted
    fleet.fail("r1", CONFIG.consecutive_failures - 1)
    assert fleet.outliers.ejection(replica.slot) is None


def test_a_reset_ends_a_demotion() -> None:
    """A replica that said that it is full gets its share again; of one that is well nothing changes."""
    fleet = Fleet()
    fleet.end("r1", Verdict.BACKPRESSURE)
    replica = fleet.replicas.get("r1")
    assert replica is not None and replica.slot in fleet.outliers.demoted
    for _ in range(2):
        fleet.outliers.reset(replica, fleet.now_s)
        check(fleet.outliers)
        assert not fleet.outliers.demoted
    fleet.wait(0.5)
    assert not fleet.outliers.demoted


def test_a_restarted_replica_has_no_record() -> None:
    """Its next incarnation is another engine: the ejection ends at the next step, without a probe."""
    fleet = Fleet()
    fleet.fail("r1")
    fleet.put("r1", born_ms=5)
    fleet.wait(0.5)
    assert fleet.states["r1"] == "up"
    assert fleet.outliers.ejection(fleet.slot("r1")) is None


def test_a_replica_that_left_leaves_nothing_behind() -> None:
    """Neither its slot's next replica nor the counters know of it."""
    fleet = Fleet()
    fleet.fail("r1")
    slot = fleet.slot("r1")
    fleet.outliers.remove(slot, "r1")
    fleet.replicas.remove("r1")
    fleet.put("r5")
    assert fleet.slot("r5") == slot
    assert fleet.states["r5"] == "up"
    assert not fleet.outliers.failures and not fleet.outliers.ejected


def test_backpressure_demotes_for_a_moment_and_ejects_nobody() -> None:
    """Any number of 503 in a row: a tenth of its requests for a second after the last one."""
    fleet = Fleet()
    fleet.end("r1", Verdict.BACKPRESSURE, times=50)
    assert fleet.states["r1"] == "up"
    assert fleet.outliers.demoted[fleet.slot("r1")].cause == "backpressure"
    fleet.wait(CONFIG.backpressure_s + 0.1)
    assert not fleet.outliers.demoted


def test_a_demoted_replica_keeps_its_share_of_the_requests() -> None:
    """Of 10,000 requests 1,000, within four standard deviations (4 * 30)."""
    fleet = Fleet()
    fleet.end("r1", Verdict.BACKPRESSURE)
    members, rng = fleet.replicas.memberships.of(""), random.Random(1)
    kept = sum(fleet.slot("r1") in fleet.outliers.narrowed(members, "", rng).slots for _ in range(10_000))
    assert abs(kept - 1000) < 120


def test_a_session_stays_or_moves_as_a_whole() -> None:
    """Drawn by its key: the same answer for each of its requests, and a tenth of all sessions stay."""
    fleet = Fleet()
    fleet.end("r1", Verdict.BACKPRESSURE)
    members, rng = fleet.replicas.memberships.of(""), random.Random(1)
    stays = [
        {fleet.slot("r1") in fleet.outliers.narrowed(members, f"s{number}", rng).slots for _ in range(3)}
        for number in range(1000)
    ]
    assert all(len(answers) == 1 for answers in stays)
    assert 60 < sum(True in answers for answers in stays) < 140


def test_narrowed_memberships_are_the_same_object_again() -> None:
    """Policies cache rings by the token of a membership."""
    fleet = Fleet()
    fleet.end("r1", Verdict.BACKPRESSURE)
    members = fleet.replicas.memberships.of("")
    out = frozenset({fleet.slot("r1")})
    first, again = fleet.replicas.memberships.without(members, out), fleet.replicas.memberships.without(members, out)
    assert first is again
    assert first.token != members.token
    assert first.slots.tolist() == [slot for slot in members.slots.tolist() if slot not in out]


def test_where_all_are_demoted_none_is() -> None:
    """All full: each keeps what it would have got."""
    fleet = Fleet()
    for name in ("r1", "r2", "r3", "r4"):
        fleet.end(name, Verdict.BACKPRESSURE)
    members, rng = fleet.replicas.memberships.of(""), random.Random(1)
    assert all(fleet.outliers.narrowed(members, "", rng) is members for _ in range(100))


def test_a_client_that_gives_up_counts_only_against_a_replica_that_answered_nobody() -> None:
    """Five clients gave up after three seconds: one replica answered others meanwhile, one did not."""
    fleet = Fleet()
    fleet.end("r2", Verdict.GOOD)
    fleet.end("r1", Verdict.UNANSWERED, lasted_s=3.0, times=5)
    fleet.end("r2", Verdict.UNANSWERED, lasted_s=3.0, times=5)
    assert fleet.states["r1"] == "ejected"
    assert fleet.states["r2"] == "up"


def test_a_client_that_leaves_soon_counts_against_nobody() -> None:
    """Less than `unanswered_s` is impatience."""
    fleet = Fleet()
    fleet.end("r1", Verdict.UNANSWERED, lasted_s=0.1, times=50)
    assert fleet.states["r1"] == "up"


def test_a_replica_that_decodes_ten_times_slower_keeps_a_tenth() -> None:
    """By its own reports; the others are each other's measure."""
    fleet = Fleet()
    for name in ("r1", "r2", "r3", "r4"):
        gap_ms = 200.0 if name == "r1" else 20.0
        finished = [Finished(f"{name}-{n}", 100, 101, 100 * gap_ms) for n in range(5)]
        fleet.outliers.report(fleet.slot(name), EngineEvents(epoch="e", seq=0, finished=finished), fleet.now_s)
    fleet.wait(0.5)
    assert fleet.outliers.demoted.keys() == {fleet.slot("r1")}
    demotion = fleet.outliers.demoted[fleet.slot("r1")]
    assert (demotion.cause, round(demotion.share, 2), round(demotion.ratio)) == ("slow", 0.1, 10)


def test_a_slow_replica_is_forgiven_as_its_measure_grows_old() -> None:
    """Without new answers nothing is known of it after a few windows."""
    fleet = Fleet()
    for name in ("r1", "r2", "r3"):
        gap_ms = 200.0 if name == "r1" else 20.0
        finished = [Finished(name, 100, 501, 500 * gap_ms)]
        fleet.outliers.report(fleet.slot(name), EngineEvents(epoch="e", seq=0, finished=finished), fleet.now_s)
    fleet.wait(0.5)
    assert fleet.outliers.demoted
    fleet.wait(5 * CONFIG.slow_window_s)
    assert not fleet.outliers.demoted


def test_prefill_replicas_are_no_members() -> None:
    """HAProxy sends them nothing, so nothing is known of them."""
    fleet = Fleet(2)
    fleet.put("r3", role=Role.PREFILL)
    fleet.fail("r1")
    assert fleet.states == {"r1": "ejected", "r2": "up", "r3": "up"}


def test_switched_off_nothing_follows_from_answers() -> None:
    """Health checks alone decide."""
    fleet = Fleet(config=OutlierConfig(enabled=False))
    fleet.fail("r1", 100)
    fleet.end("r2", Verdict.BACKPRESSURE)
    fleet.wait(1)
    assert set(fleet.states.values()) == {"up"}
    assert not fleet.outliers.demoted


def test_a_replica_that_prefills_ten_times_slower_keeps_a_tenth() -> None:
    """By the prefill times that policies by KV learn; one of which nothing is known is not judged."""
    fleet = Fleet(5)
    for name, took_ms in {"r1": 900.0, "r2": 90.0, "r3": 80.0, "r4": 90.0}.items():
        fleet.prefill_ms[fleet.slot(name)] = took_ms
    fleet.wait(0.5)
    assert {slot: round(demotion.ratio) for slot, demotion in fleet.outliers.demoted.items()} == {fleet.slot("r1"): 10}
