"""Virtual time: what happens, and in which order."""

from __future__ import annotations

from functools import partial

from pointsman.simulator.clock import VirtualClock


def test_moments_come_in_their_order() -> None:
    """By time, and at one time in the order in which they were set."""
    clock = VirtualClock()
    seen: list[tuple[str, float]] = []

    def note(name: str, now_s: float) -> None:
        seen.append((name, now_s))

    for name, at_s in (("c", 2.0), ("a", 1.0), ("d", 2.0), ("b", 1.5)):
        clock.at(at_s, partial(note, name))
    clock.run()
    assert seen == [("a", 1.0), ("b", 1.5), ("c", 2.0), ("d", 2.0)]


def test_an_action_may_add_others() -> None:
    """A run ends when nothing is left to happen."""
    clock = VirtualClock()
    seen: list[float] = []

    def again(now_s: float) -> None:
        seen.append(now_s)
        if now_s < 3.0:
            clock.at(now_s + 1.0, again)

    clock.at(1.0, again)
    clock.run()
    assert seen == [1.0, 2.0, 3.0]


def test_numbers_differ() -> None:
    """Moments that are set meanwhile change nothing about that."""
    clock = VirtualClock()
    numbers = []
    for _ in range(5):
        numbers.append(clock.number())
        clock.at(0.0, lambda now_s: None)
    assert len(set(numbers)) == 5
